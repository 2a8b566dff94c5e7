/** Register dumps: what a run that ended badly left behind. */
import { TsvError } from '../errors.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { translate } from '../memory/page-walk.ts';
import type { Regs, Segment, Sregs } from '../vcpu/state.ts';
import type { RegisterDump } from './exit.ts';

const CODE_BYTES = 16;
const CR0_PG = 1n << 31n;

/** Collects a vCPU's dump, with the code at RIP as far as its page tables lead there. */
export function registerDump(
  vcpu: number,
  regs: Regs,
  sregs: Sregs,
  memory: GuestMemory,
  symbol?: (linear: bigint) => string | undefined,
): RegisterDump {
  const linear = BigInt.asUintN(64, sregs.cs.base + regs.rip);
  return { vcpu, regs, sregs, code: codeAt(linear, sregs, memory), symbol: symbol?.(linear) };
}

function codeAt(linear: bigint, sregs: Sregs, memory: GuestMemory): Uint8Array {
  const code: number[] = [];
  for (let i = 0n; i < BigInt(CODE_BYTES); i++) {
    const physical = physicalOf(linear + i, sregs, memory);
    if (physical === undefined || !memory.contains(physical, 1)) break;
    code.push(memory.readU8(physical));
  }
  return Uint8Array.from(code);
}

function physicalOf(linear: bigint, sregs: Sregs, memory: GuestMemory): number | undefined {
  if ((sregs.cr0 & CR0_PG) === 0n) return Number(BigInt.asUintN(32, linear));
  const walk = translate(memory, sregs.cr3, BigInt.asUintN(64, linear));
  return walk.ok ? walk.physical : undefined;
}

const hex = (value: bigint, digits = 16) => value.toString(16).padStart(digits, '0');

/** The dump as text, in the order QEMU's `info registers` uses. */
export function formatRegisters(dump: RegisterDump): string {
  const { regs: r, sregs: s } = dump;
  const rows = [
    ['RAX', r.rax, 'RBX', r.rbx, 'RCX', r.rcx, 'RDX', r.rdx],
    ['RSI', r.rsi, 'RDI', r.rdi, 'RBP', r.rbp, 'RSP', r.rsp],
    ['R8 ', r.r8, 'R9 ', r.r9, 'R10', r.r10, 'R11', r.r11],
    ['R12', r.r12, 'R13', r.r13, 'R14', r.r14, 'R15', r.r15],
    ['RIP', r.rip, 'FLG', r.rflags],
    ['CR0', s.cr0, 'CR2', s.cr2, 'CR3', s.cr3, 'CR4', s.cr4],
    ['EFR', s.efer, 'APC', s.apic_base],
  ];
  const lines = rows.map((row) =>
    row.map((cell) => (typeof cell === 'bigint' ? `=${hex(cell)} ` : cell)).join(''),
  );
  const segments = (['cs', 'ss', 'ds', 'es', 'fs', 'gs', 'ldt', 'tr'] as const).map((name) =>
    segment(name, s[name]),
  );
  const tables = (['gdt', 'idt'] as const).map(
    (name) => `${name.toUpperCase()}=${hex(s[name].base)} ${hex(BigInt(s[name].limit), 8)}`,
  );
  const code = `Code=${[...dump.code].map((byte) => hex(BigInt(byte), 2)).join(' ') || '(not mapped)'}`;
  const where = dump.symbol === undefined ? '' : ` (${dump.symbol})`;
  return [`vCPU ${dump.vcpu}${where}`, ...lines, ...segments, ...tables, code].join('\n');
}

function segment(name: string, s: Segment): string {
  const type = s.unusable
    ? 'unusable'
    : `type=${s.type.toString(16)} dpl=${s.dpl}${s.l ? ' 64-bit' : s.db ? ' 32-bit' : ' 16-bit'}`;
  return `${name.toUpperCase().padEnd(3)}=${hex(BigInt(s.selector), 4)} ${hex(s.base)} ${hex(BigInt(s.limit), 8)} ${type}`;
}

/** Adds the kernel symbol of RIP, where it is known, to the error about an instruction there. */
export function withSymbol(error: TsvError, dump: RegisterDump | undefined): TsvError {
  if (error.code !== 'TSV_E_GUEST_INSTRUCTION' || dump?.symbol === undefined) return error;
  const message = error.message.replace(/ at 0x[\da-f]+/, (place) => `${place} (${dump.symbol})`);
  return new TsvError(error.code, message, { hint: error.hint, cause: error.cause });
}
