/** The console of a machine: what a guest prints, what it is sent, and guests that print without end. */
import pino from 'pino';
import { describe, expect, it } from 'vitest';
import { VmConsole } from '../../src/machine/console.ts';
import { ENGINES } from '../support/engines.ts';
import { guestsOn, POWER_OFF, print } from '../support/guests.ts';

const SPIN = '1: jmp 1b';
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
/** Setting the port up clears its FIFO: what is typed before is lost, as on hardware. */
const READY = "mov dx, 0x3f8; mov al, '>'; out dx, al;";

describe.each(ENGINES)('on %s', (accel) => {
  const { pcVm } = guestsOn(accel);

  describe('the console', () => {
    it('matches output across pieces, in order, and leaves the rest', async () => {
      await using vm = await pcVm(`${print('hello world\nlogin: ')} ${SPIN}`);
      vm.start();

      const [first, second] = await Promise.all([vm.console.expect(/w(or)ld/), vm.console.expect(/login: /)]);

      expect(first[1]).toBe('or');
      expect(second[0]).toBe('login: ');
      expect(vm.console.pending).toBe('');
    });

    it('answers what is typed', async () => {
      await using vm = await pcVm(`
        mov dx, 0x3fb; mov al, 3; out dx, al; mov dx, 0x3fa; mov al, 1; out dx, al; ${READY}
        1: mov dx, 0x3fd; 2: in al, dx; test al, 1; jz 2b
        mov dx, 0x3f8; in al, dx; xor al, 0x20; out dx, al; jmp 1b`);
      vm.start();
      await vm.console.expect(/>/);

      vm.console.write('abc');
      vm.console.write(new TextEncoder().encode('xyz'));

      expect((await vm.console.expect(/ABCXYZ/))[0]).toBe('ABCXYZ');
    });

    it('gives the guest more input than its port can hold, in order', async () => {
      await using vm = await pcVm(`
        mov dx, 0x3fa; mov al, 1; out dx, al; ${READY} xor ebx, ebx; xor ecx, ecx
        1: mov dx, 0x3fd; 2: in al, dx; test al, 1; jz 2b
        mov dx, 0x3f8; in al, dx; movzx eax, al; rol ebx, 1; add ebx, eax; inc ecx; cmp al, 10; jne 1b
        mov [0x1000], ebx; mov [0x1004], ecx; hlt; ${POWER_OFF}`);
      const text = `${'0123456789abcdef'.repeat(200)}\n`;
      let sum = 0;
      for (const byte of Buffer.from(text)) sum = (((sum << 1) | (sum >>> 31)) + byte) | 0;
      vm.start();
      await vm.console.expect(/>/);

      vm.console.write(text);
      while (vm.memory.readU32(0x1004) === 0) await sleep(2);

      expect(vm.memory.readU32(0x1004)).toBe(text.length);
      expect(vm.memory.readU32(0x1000)).toBe(sum >>> 0);
    });

    it('says what was there instead when the time is over, and when the machine ends', async () => {
      await using vm = await pcVm(`${print('nothing of the kind')} ${SPIN}`);
      vm.start();
      await vm.console.expect(/nothing/);

      const late = vm.console.expect(/login/, { timeout: 20 });
      await expect(late).rejects.toMatchObject({ code: 'TSV_E_CONSOLE_TIMEOUT', message: /of the kind/ });
      const never = vm.console.expect(/login/, { timeout: 0 });
      void vm.stop();

      await expect(never).rejects.toMatchObject({
        code: 'TSV_E_CONSOLE_TIMEOUT',
        message: /ended \(stopped\)/,
      });
      await expect(vm.console.expect(/login/)).rejects.toMatchObject({ code: 'TSV_E_CONSOLE_TIMEOUT' });
    });

    it('is a stream that ends with the machine, whole', async () => {
      const text = 'The quick brown fox jumps over the lazy dog.\n'.repeat(20);
      await using vm = await pcVm(`${print(text)} ${POWER_OFF}`);
      const stream = vm.console.readable;
      vm.start();

      let output = '';
      for await (const bytes of stream) output += bytes;

      expect(output).toBe(text);
      expect((await vm.exited).reason).toBe('poweroff');
      for await (const _ of vm.console.readable) expect.unreachable();
    });

    it('goes on without a stream that was destroyed', async () => {
      await using vm = await pcVm(`1: mov al, 0x41; mov dx, 0x3f8; out dx, al; jmp 1b`);
      const stream = vm.console.readable;
      vm.start();
      await new Promise((resolve) => stream.once('data', resolve));

      stream.destroy();
      await vm.console.expect(/A{4000}/);

      expect(vm.state).toBe('running');
    });

    it('keeps characters whole that arrive in pieces', () => {
      const machine = new VmConsole(() => {});
      for (const byte of new TextEncoder().encode('täst €')) machine.receive(Uint8Array.of(byte));

      expect(machine.pending).toBe('täst €');
    });
  });

  describe('a guest that floods the serial port', () => {
    const FLOOD = `mov dx, 0x3f8; mov ebx, 0; 1: mov al, 0x41; out dx, al; inc ebx; mov [0x1000], ebx; jmp 1b`;
    /** Both buffers of the port, and the ring. */
    const MOST = 2 * 128 * 1024 + 1024 + 1;

    it('is held back by a listener that takes its time', async () => {
      await using vm = await pcVm(FLOOD);
      let taken = 0;
      let letGo = () => {};
      vm.console.onData((bytes) => {
        taken += bytes.length;
        return new Promise((resolve) => {
          letGo = resolve;
        });
      });
      vm.start();
      let before = -1;
      while (vm.memory.readU32(0x1000) !== before) {
        before = vm.memory.readU32(0x1000);
        await sleep(100);
      }

      expect(vm.memory.readU32(0x1000) - taken).toBeLessThanOrEqual(MOST);
      letGo();
      while (vm.memory.readU32(0x1000) <= before) await sleep(1);
      letGo();
      const closed = vm.close();
      const timer = setInterval(() => letGo(), 1);
      await closed;
      clearInterval(timer);
    });

    it('is held back by a stream that nobody reads, which still ends', async () => {
      await using vm = await pcVm(FLOOD);
      const stream = vm.console.readable;
      vm.start();
      let before = -1;
      while (vm.memory.readU32(0x1000) !== before) {
        before = vm.memory.readU32(0x1000);
        await sleep(100);
      }

      expect(before).toBeLessThan(4 * MOST);
      expect(stream.readableLength).toBeLessThan(4 * MOST);
      await vm.stop();
      let length = 0;
      for await (const bytes of stream) length += bytes.length;
      expect(length).toBeLessThanOrEqual(vm.memory.readU32(0x1000) + 1);
    });

    it('keeps neither timers nor its own end from their turn', async () => {
      await using vm = await pcVm(FLOOD);
      vm.start();

      for (let i = 0; i < 20; i++) await sleep(1);
      await vm.pause();
      vm.resume();

      expect((await vm.stop()).reason).toBe('stopped');
    });

    it('does not flood the log by what it does wrong', async () => {
      let lines = 0;
      const log = pino({ level: 'debug' }, { write: () => void lines++ });
      // A sleep state that the machine does not have, over and over.
      await using vm = await pcVm(
        'xor ebx, ebx; mov dx, 0x604; mov ax, 0x2400; 1: out dx, ax; inc ebx; mov [0x1000], ebx; jmp 1b',
        { log },
      );
      vm.start();
      while (vm.memory.readU32(0x1000) < 2000) await sleep(5);

      const seconds = Math.ceil(vm.clock.now() / 1e9) + 1;
      await vm.pause();

      expect(lines).toBeGreaterThan(0);
      expect(lines).toBeLessThanOrEqual(20 * seconds);
    });
  });
});
