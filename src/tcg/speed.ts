/** How fast this host executes guest code with the tcg engine: for `tsvisor doctor`. */
import { GuestMemory } from '../memory/guest-memory.ts';
import { protectedModeEntry, writeBootGdt } from '../vcpu/entry.ts';
import { Cpu } from './cpu.ts';
import { engineSize, S } from './layout.ts';
import { setRegs, setSregs } from './state-transfer.ts';

const WASM_PAGE = 65536;
const RAM = 1 << 20;
const GDT = 0x1000;
const CODE = 0x2000;
const DATA = 0x8000;
/**
 * A little of everything, for ever:
 * `l: mov eax, [esi]; add eax, ecx; mov [esi+4], eax; push eax; call f; pop edx; xor edx, eax; test dl, 3; jz l;
 * dec ecx; jmp l; f: lea ebx, [eax+ecx*2]; ret`.
 */
const LOOP = Uint8Array.of(
  ...[
    0x8b, 0x06, 0x01, 0xc8, 0x89, 0x46, 0x04, 0x50, 0xe8, 0x0b, 0, 0, 0, 0x5a, 0x31, 0xc2, 0xf6, 0xc2, 0x03,
  ],
  ...[0x74, 0xeb, 0x49, 0xeb, 0xe8, 0x8d, 0x1c, 0x48, 0xc3],
);
const BUDGET = 250_000;
const RUNS = 40;

/**
 * Million guest instructions a second on a loop of loads, stores, calls and branches: the best of many short runs, for other
 * work of the host is not what is asked about. Takes some 100 ms.
 */
export function tcgSpeed(): number {
  const offset = engineSize(1);
  const pages = (offset + RAM) / WASM_PAGE;
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const regions = [{ gpa: 0, size: RAM, memory: 0, offset }];
  const guest = new GuestMemory({ memories: [{ buffer: memory.buffer as SharedArrayBuffer }], regions });
  const cpu = new Cpu({ memory, regions, index: 0, hasFeature: () => false });
  guest.write(CODE, LOOP);
  const { regs, sregs } = protectedModeEntry({
    entry: CODE,
    segments: writeBootGdt(guest, GDT, 32),
    stack: RAM,
  });
  setSregs(cpu, sregs);
  setRegs(cpu, { ...regs, rsi: BigInt(DATA) });
  const rates = Array.from({ length: RUNS }, () => {
    const before = cpu.state.u64(S.RETIRED);
    const start = performance.now();
    cpu.run(BUDGET);
    return Number(cpu.state.u64(S.RETIRED) - before) / (performance.now() - start) / 1000;
  });
  return Math.max(...rates);
}
