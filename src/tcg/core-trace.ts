/** Traces what the core does: instructions, blocks, exceptions, interrupts (`--trace insn,block,exc,irq`). */
import type { VcpuContext } from '../vcpu/engine.ts';
import type { Cpu } from './cpu.ts';
import { DECODE, Decoder } from './decode/decoder.ts';
import { loadInterpreter } from './interpreter.ts';
import { codeAt } from './state-transfer.ts';
import type { EventKind } from './system/delivery.ts';

const REGISTERS = 'rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15'.split(' ');
/** Names of the exceptions by vector (SDM vol. 3A table 6-1). */
const EXCEPTIONS =
  '#DE #DB NMI #BP #OF #BR #UD #NM #DF - #TS #NP #SS #GP #PF - #MF #AC #MC #XM #VE #CP'.split(' ');
const PAGE_FAULT = 14;

type Tracer = VcpuContext['tracer'];

/** The trace of one vCPU's core. */
export class CoreTrace {
  /** Every instruction, or every block, is run by itself. */
  readonly instructions: boolean;
  readonly blocks: boolean;
  readonly #cpu: Cpu;
  readonly #tracer: Tracer;
  readonly #decoder: Decoder;
  readonly #before = new BigUint64Array(REGISTERS.length);

  constructor(cpu: Cpu, tracer: Tracer) {
    this.#cpu = cpu;
    this.#tracer = tracer;
    this.instructions = tracer.has('insn');
    this.blocks = tracer.has('block');
    this.#decoder = new Decoder(loadInterpreter().instructions, () => true);
    if (tracer.has('exc') || tracer.has('irq')) {
      cpu.system.onEvent = (vector, error, kind) => this.#event(vector, error, kind);
    }
  }

  /** Before the core runs on. */
  before(): void {
    const { state, log } = this.#cpu;
    // An instruction that goes on after its device access was shown before it.
    if (log.pending !== undefined) return;
    if (this.blocks && !this.instructions) this.#tracer.add(`block ${hex(state.rip)}`);
    if (!this.instructions) return;
    for (let i = 0; i < REGISTERS.length; i++) this.#before[i] = state.gpr(i);
    this.#line = `insn ${hex(state.rip)} ${this.#describe(state.rip)}`;
  }
  #line = '';

  /** After it has come back: with instructions, what that one has changed, once it is complete. */
  after(): void {
    if (!this.instructions || this.#cpu.log.pending !== undefined) return;
    const { state } = this.#cpu;
    const changes = REGISTERS.flatMap((name, i) => {
      const value = state.gpr(i);
      return value === this.#before[i] ? [] : [`${name}=${hex(value)}`];
    });
    this.#tracer.add([this.#line, ...changes].join(' '));
  }

  #event(vector: number, error: number, kind: EventKind): void {
    const at = hex(this.#cpu.state.rip);
    if (kind === 'external') {
      if (this.#tracer.has('irq')) this.#tracer.add(`irq vector 0x${vector.toString(16)} at ${at}`);
      return;
    }
    if (!this.#tracer.has('exc')) return;
    const name =
      kind === 'exception' ? (EXCEPTIONS[vector] ?? `vector ${vector}`) : `int 0x${vector.toString(16)}`;
    const linear = vector === PAGE_FAULT ? ` address ${hex(this.#cpu.system.registers.readCr(2))}` : '';
    this.#tracer.add(`exc ${name} error 0x${error.toString(16)} at ${at}${linear}`);
  }

  /** Bytes and name of the instruction at RIP. */
  #describe(rip: bigint): string {
    const bytes = codeAt(this.#cpu, rip);
    const length = this.#decoder.decode(bytes, 0, bytes.length, this.#cpu.blocks.width);
    if (length === DECODE.truncated) return '(not mapped)';
    if (length <= 0) return `${Buffer.from(bytes.subarray(0, 8)).toString('hex')} (undefined)`;
    return `${Buffer.from(bytes.subarray(0, length)).toString('hex')} ${this.#decoder.plan.encoding.instruction.name}`;
  }
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`;
}
