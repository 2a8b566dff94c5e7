/** What CR0, CR4, pending exceptions and missing features make of SSE, MMX and x87 instructions. */
import { describe, expect, test } from 'vitest';
import { S } from '../../../src/tcg/layout.ts';
import { VECTOR } from '../../../src/tcg/system/fault.ts';
import { BareGuest, CODE, DATA, type End } from '../support/bare-guest.ts';

const EM = 4n;
const TS = 8n;
const OSFXSR = 0x200n;
const OSXSAVE = 1n << 18n;
/** Flags of a state that the code sets by itself, so that blocks decoded before must not be used. */
const SET_TS = 'mov rax, cr0\nor eax, 8\nmov cr0, rax';

/** How code ends with bits of CR0 and CR4 inverted, in turn. CR4.OSFXSR is set at first. */
function endsOf(source: string, ...inverted: { cr0?: bigint; cr4?: bigint }[]): End[] {
  const guest = new BareGuest(`${source}\nhlt`);
  guest.cpu.state.setU64(S.XCR0, 3n);
  return inverted.map(({ cr0, cr4 = 0n }) => guest.restart({ cr0, cr4: cr4 | OSXSAVE }).run());
}

describe('availability', () => {
  const { UD, NM } = VECTOR;
  test.each([
    ['paddb xmm0, xmm1', NM, UD, UD],
    ['addps xmm0, xmm1', NM, UD, UD],
    [`movaps xmm0, [${DATA}]`, NM, UD, UD],
    [`ldmxcsr [${DATA}]`, NM, UD, UD],
    ['aesenc xmm0, xmm1', NM, UD, UD],
    ['cvtpi2ps xmm0, mm0', NM, UD, UD],
    ['paddb mm0, mm1', NM, UD, 'halt'],
    ['emms', NM, UD, 'halt'],
    ['fld1', NM, NM, 'halt'],
    ['fninit', NM, NM, 'halt'],
    ['fwait', NM, 'halt', 'halt'],
    [`fxsave [${DATA}]`, NM, NM, 'halt'],
    [`xsave [${DATA}]`, NM, 'halt', 'halt'],
    // No state of these is switched.
    ['crc32 eax, ebx', 'halt', 'halt', 'halt'],
    [`movnti [${DATA}], eax`, 'halt', 'halt', 'halt'],
    ['sfence', 'halt', 'halt', 'halt'],
    [`prefetcht0 [${DATA}]`, 'halt', 'halt', 'halt'],
    ['andn eax, ebx, ecx', 'halt', 'halt', 'halt'],
  ] as const)('%s', (source, ts, em, osfxsr) => {
    expect(endsOf(source, {}, { cr0: TS }, {}, { cr0: EM }, { cr4: OSFXSR }, {})).toEqual([
      'halt',
      ts,
      'halt',
      em,
      osfxsr,
      'halt',
    ]);
  });

  test('CR0.EM comes before CR0.TS', () => {
    expect(endsOf('paddb xmm0, xmm1', { cr0: TS | EM })).toEqual([UD]);
    expect(endsOf('paddb mm0, mm1', { cr0: TS | EM })).toEqual([UD]);
  });

  test('follows from CR0 as it is when the instruction is executed, not when it was decoded', () => {
    const guest = new BareGuest(
      `mov ecx, 2\n1: paddb xmm0, xmm1\ndec ecx\njz 2f\n${SET_TS}\nclts\njmp 1b\n2: ${SET_TS}\njmp 1b`,
    );
    expect(guest.run()).toBe(NM);
    expect(guest.cpu.state.gpr(1)).toBe(0n);
    expect(guest.cpu.state.rip).toBe(BigInt(CODE + 5));
  });

  test('XSAVE is undefined without CR4.OSXSAVE', () => {
    const guest = new BareGuest(`xsave [${DATA}]\nhlt`);
    expect(guest.run()).toBe(UD);
  });
});

describe('a pending x87 exception', () => {
  /** 1 / 0 with the exception unmasked. */
  const PENDING = `mov word ptr [${DATA}], 0x37b\nfldcw [${DATA}]\nfld1\nfldz\nfdivp\n`;

  test.each(['fwait', 'fld1', 'paddb mm0, mm1', 'emms', `movq mm0, [${DATA}]`])(
    'is raised by %s',
    (source) => {
      expect(endsOf(PENDING + source, {})).toEqual([VECTOR.MF]);
    },
  );
  test.each(['fninit', 'fnstsw ax', 'fnclex', 'paddb xmm0, xmm1', `fxsave [${DATA}]`])(
    'is not raised by %s',
    (source) => {
      expect(endsOf(PENDING + source, {})).toEqual(['halt']);
    },
  );
});

test('MMX instructions see the significands of the x87 registers by physical number', () => {
  const guest = new BareGuest(
    'fninit\nfld1\nmovq rax, mm7\nfnstsw [0x8000]\npcmpeqd mm7, mm7\nfnstenv [0x8010]\nhlt',
  );
  expect(guest.run()).toBe('halt');
  expect(guest.cpu.state.gpr(0)).toBe(1n << 63n);
  // TOP is 0 and every register is in use; what was written has an exponent of ones: special.
  expect(guest.memory.readU16(DATA)).toBe(0);
  expect(guest.memory.readU16(DATA + 0x18) >> 14).toBe(2);
});

test('an x87 store to a device pops once', () => {
  // Mapped, without RAM.
  const guest = new BareGuest(
    'fninit\nfld1\nfld1\nfstp dword ptr [0x500000]\nfistp word ptr [0x500004]\nhlt',
  );
  expect(guest.run()).toBe('halt');
  const { state } = guest.cpu;
  expect([state.i32(S.FSW), state.i32(S.FTW)]).toEqual([0, 0]);
});

describe('instructions that are not there', () => {
  test('raise #UD also where they were decoded before the feature went', () => {
    const guest = new BareGuest('popcnt eax, ebx\nhlt');
    const before = guest.run();

    guest.cpu.setFeatures((feature) => feature !== 'popcnt');

    expect([before, guest.restart().run()]).toEqual(['halt', VECTOR.UD]);
  });

  test('are told of once for each opcode, UD2 never', () => {
    const guest = new BareGuest('.byte 0x0f, 0x04\nhlt');
    const told: string[] = [];
    guest.cpu.onUnimplemented = (bytes, rip) =>
      told.push(`${rip.toString(16)} ${Buffer.from(bytes.subarray(0, 4)).toString('hex')}`);
    const { state } = guest.cpu;
    for (const code of ['0f04', '0f04', 'f30f04', '0f0b', 'c5f858c1', 'c5f858d2', '0f0ae0', '0f0af8']) {
      guest.memory.write(CODE, Uint8Array.from(Buffer.from(code.padEnd(8, '9'), 'hex')));
      guest.cpu.mmu.touched(guest.cpu.map.host(CODE), 4);
      state.rip = BigInt(CODE);
      expect(guest.run()).toBe(VECTOR.UD);
    }
    expect(told).toEqual(
      ['0f049999', 'f30f0499', 'c5f858c1', '0f0ae099', '0f0af899'].map((c) => `2000 ${c}`),
    );
  });

  test('raise #UD when the feature is missing', () => {
    for (const [source, feature] of [
      ['aesenc xmm0, xmm1', 'aes'],
      ['pclmulqdq xmm0, xmm1, 0', 'pclmulqdq'],
      ['sha1nexte xmm0, xmm1', 'sha_ni'],
      ['rdrand eax', 'rdrand'],
      ['rdseed eax', 'rdseed'],
      ['rdpid rax', 'rdpid'],
      ['clflushopt [rsp]', 'clflushopt'],
      ['clwb [rsp]', 'clwb'],
      ['lahf', 'lahf_lm'],
      ['paddb mm0, mm1', 'mmx'],
      ['crc32 eax, ebx', 'sse4_2'],
      ['stac', 'smap'],
      ['rdtscp', 'rdtscp'],
      ['cmova eax, ebx', 'cmov'],
      ['cmpxchg16b [rsp]', 'cx16'],
    ]) {
      expect(new BareGuest(`${source}\nhlt`).run()).toBe('halt');
      expect(new BareGuest(`${source}\nhlt`, { hasFeature: (name) => name !== feature }).run()).toBe(
        VECTOR.UD,
      );
    }
  });
});

test('RDRAND and RDSEED take what the peripherals give, of their size, and set only CF', () => {
  const guest = new BareGuest(
    'mov rbx, -1\nmov rcx, -1\nrdrand rax\nrdrand bx\nrdseed ecx\npushfq\npop rdx\nhlt',
  );
  let next = 0x1111_2222_3333_4444n;
  guest.cpu.system.registers.peripherals.random = () => next++;
  expect(guest.run()).toBe('halt');
  expect([0, 3, 1].map((i) => guest.cpu.state.gpr(i))).toEqual([
    0x1111_2222_3333_4444n,
    0xffff_ffff_ffff_4445n,
    0x3333_4446n,
  ]);
  expect(guest.cpu.state.gpr(2) & 0x8d5n).toBe(1n);
});

test('RDRAND gives other numbers each time without a hook', () => {
  const guest = new BareGuest('rdrand rax\nrdrand rbx\nhlt');
  guest.run();
  expect(guest.cpu.state.gpr(0)).not.toBe(guest.cpu.state.gpr(3));
});

test('STAC and CLAC are undefined to user code', () => {
  expect(new BareGuest('stac', { cpl: 3 }).run()).toBe(VECTOR.UD);
  expect(new BareGuest('clac', { cpl: 3 }).run()).toBe(VECTOR.UD);
});
