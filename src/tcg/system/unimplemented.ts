/** Tells of instructions that the engine does not have, once for each opcode. */
import type { Cpu } from '../cpu.ts';
import { MAX_LENGTH } from '../decode/decoder.ts';
import { PAGE, S, SEG } from '../layout.ts';
import { translate } from '../state-transfer.ts';
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

/** The bytes that are mapped from an address on, as many as an instruction can have. */
function codeAt(cpu: Cpu, rip: bigint): Uint8Array {
  const { state, map } = cpu;
  const start = cpu.system.segments.is64
    ? rip
    : BigInt.asUintN(32, rip + state.u64(S.SEGMENT_BASE + SEG.CS * 8));
  const bytes: number[] = [];
  let host = -1;
  for (let i = 0; i < MAX_LENGTH; i++) {
    const linear = BigInt.asUintN(64, start + BigInt(i));
    if (i === 0 || (linear & BigInt(PAGE - 1)) === 0n) {
      const { valid, physical_address } = translate(cpu, linear);
      host = valid ? map.host(Number(physical_address)) : -1;
    } else host++;
    if (host < 0) break;
    bytes.push(state.bytes[host]);
  }
  return Uint8Array.from(bytes);
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
