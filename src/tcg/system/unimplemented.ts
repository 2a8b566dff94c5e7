/** Tells of instructions that the engine does not have, once for each opcode. */
import type { Cpu } from '../cpu.ts';
import { codeAt } from '../state-transfer.ts';
import type { Operation } from './operations.ts';

/** Most different opcodes that are told of: a guest can have any. */
const MOST = 32;

/** What was told of each vCPU. */
const reported = new WeakMap<Cpu, Set<string>>();

/** Calls {@link Cpu.onUnimplemented} unless it knows the opcode already. */
export function reportUnimplemented({ cpu, system, pc }: Operation): void {
  if (cpu.onUnimplemented === undefined) return;
  let known = reported.get(cpu);
  if (known === undefined) {
    known = new Set();
    reported.set(cpu, known);
  }
  if (known.size >= MOST) return;
  const rip = system.rip(pc);
  const bytes = codeAt(cpu, rip);
  const opcode = opcodeOf(bytes, system.segments.is64);
  if (known.has(opcode)) return;
  known.add(opcode);
  cpu.onUnimplemented(bytes, rip);
}

const MANDATORY = new Set([0x66, 0xf2, 0xf3]);
const LEGACY = new Set([0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x67, 0xf0, ...MANDATORY]);

/** What tells instructions apart: prefixes that are part of opcodes, opcode, and its extension in ModRM. */
function opcodeOf(bytes: Uint8Array, long: boolean): string {
  const parts: number[] = [];
  let at = 0;
  while (LEGACY.has(bytes[at]) || (long && (bytes[at] & 0xf0) === 0x40)) {
    if (MANDATORY.has(bytes[at])) parts.push(bytes[at]);
    at++;
  }
  const first = bytes[at++];
  parts.push(first);
  // VEX and EVEX: map, prefix and opcode.
  if (first === 0xc5) parts.push(bytes[at] & 3, bytes[at + 1]);
  else if (first === 0xc4) parts.push(bytes[at] & 31, bytes[at + 1] & 3, bytes[at + 2]);
  else if (first === 0x62) parts.push(bytes[at] & 7, bytes[at + 1] & 3, bytes[at + 3]);
  else {
    if (first === 0x0f) {
      const second = bytes[at++];
      parts.push(second);
      if (second === 0x38 || second === 0x3a) parts.push(bytes[at++]);
    }
    parts.push((bytes[at] >> 3) & 7);
  }
  return parts.join(' ');
}
