/** A microVM with a device of your own: a real-mode guest prints through a port that TypeScript answers. */
import { type Device, Vm } from 'tsvisor';

class Printer implements Device {
  readonly name = 'printer';
  text = '';
  write(_offset: number, _size: number, value: number) {
    this.text += String.fromCharCode(value);
  }
  save() {
    return { text: this.text };
  }
  restore(state: { text?: unknown }) {
    this.text = String(state.text);
  }
}

// mov si, message; again: lodsb; test al, al; jz done; out 0x42, al; jmp again; done: hlt
const code = [0xbe, 0x0d, 0x7c, 0xac, 0x84, 0xc0, 0x74, 0x04, 0xe6, 0x42, 0xeb, 0xf7, 0xf4];
const message = [...'Hello from real mode\n\0'].map((c) => c.charCodeAt(0));

await using vm = await Vm.create({
  memory: '1M',
  board: 'none',
  boot: { flat: Uint8Array.from([...code, ...message]) },
});
const printer = new Printer();
vm.addDevice(printer, { pio: [{ base: 0x42, size: 1 }] });
vm.start();
const { reason } = await vm.exited;
process.stdout.write(`${printer.text}The guest ended with ${reason}.\n`);
