/** Runs x87 instructions on the host's processor and on the emulation, and compares everything they leave behind. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Float80 } from '../../../src/tcg/fpu/float80.ts';
import { fxrstor, fxsave } from '../../../src/tcg/fpu/fxsave.ts';
import { AreaX87State } from '../../../src/tcg/fpu/state.ts';
import { x87Encoding } from '../../../src/tcg/fpu/table.ts';
import { X87, X87_RESULT } from '../../../src/tcg/fpu/x87.ts';

/** One instruction on one state. */
export interface X87Case {
  fcw: number;
  fsw: number;
  /** Abridged tags by physical register. */
  ftw: number;
  /** ST(0) to ST(7), ten bytes each. */
  stack: Float80[];
  opcode: number;
  modrm: number;
  /** With the operand-size prefix. */
  size16?: boolean;
  /** Contents of the memory operand, zero-extended to 128 bytes. */
  memory?: Uint8Array;
  /** CF, PF and ZF. */
  eflags?: number;
}

/** What an instruction left behind. */
export interface X87Outcome {
  fault: 'none' | '#MF' | '#UD';
  fcw: number;
  fsw: number;
  ftw: number;
  /** ST(0) to ST(7), as hexadecimal numbers. */
  stack: string[];
  memory: string;
  eflags: number;
  ax: number;
}

// Offsets in a case of oracle.c.
const CASE_BYTES = 768;
const MEMORY = 512;
const CODE = 640;
const RFLAGS = 656;
const RAX = 664;
const SIGNAL = 704;
/** In the FXSAVE image. */
const MXCSR = 24;
const REGISTERS = 32;

const STATUS_FLAGS = 0x8d5;
const RAX_BEFORE = 0x1234;

/** Compiles the oracle. */
export class Hardware {
  readonly #directory = mkdtempSync(join(tmpdir(), 'tsvisor-x87-'));
  readonly #program = join(this.#directory, 'oracle');

  constructor() {
    const source = join(import.meta.dirname, 'oracle.c');
    const compiler = process.env.CC ?? 'cc';
    execFileSync(compiler, ['-O1', '-o', this.#program, source], { stdio: ['ignore', 'ignore', 'pipe'] });
  }

  close(): void {
    rmSync(this.#directory, { recursive: true });
  }

  /** Executes all cases in one process. */
  run(cases: readonly X87Case[]): X87Outcome[] {
    const input = new Uint8Array(cases.length * CASE_BYTES);
    for (const [i, c] of cases.entries()) encode(c, new DataView(input.buffer, i * CASE_BYTES, CASE_BYTES));
    const run = spawnSync(this.#program, { input, maxBuffer: 2 ** 30 });
    if (run.status !== 0 || run.stdout.length !== input.length) {
      throw new Error(`The oracle ended with ${run.status ?? run.signal}.`);
    }
    const output = run.stdout;
    return cases.map((_, i) =>
      decode(new DataView(output.buffer, output.byteOffset + i * CASE_BYTES, CASE_BYTES)),
    );
  }
}

function encode(c: X87Case, view: DataView): void {
  view.setUint16(0, c.fcw, true);
  view.setUint16(2, c.fsw, true);
  view.setUint8(4, c.ftw);
  view.setUint32(MXCSR, 0x1f80, true);
  for (const [i, register] of c.stack.entries()) register.write(view, REGISTERS + i * 16);
  const memory = new Uint8Array(view.buffer, view.byteOffset + MEMORY, 128);
  memory.set(c.memory ?? []);
  // The memory operand is at RSI: a register form is taken as it is.
  const code = [...(c.size16 ? [0x66] : []), c.opcode, c.modrm >= 0xc0 ? c.modrm : (c.modrm & 0x38) | 6];
  for (let i = 0; i < 16; i++) view.setUint8(CODE + i, code[i] ?? 0xc3);
  view.setBigUint64(RFLAGS, BigInt(0x202 | (c.eflags ?? 0)), true);
  view.setBigUint64(RAX, BigInt(RAX_BEFORE), true);
}

function decode(view: DataView): X87Outcome {
  const signal = view.getUint32(SIGNAL, true);
  const register = new Float80();
  return {
    fault: signal === 0 ? 'none' : signal === 8 ? '#MF' : '#UD',
    fcw: view.getUint16(0, true),
    fsw: view.getUint16(2, true),
    ftw: view.getUint8(4),
    stack: Array.from({ length: 8 }, (_, i) => hex(register.read(view, REGISTERS + i * 16))),
    memory: Buffer.from(view.buffer, view.byteOffset + MEMORY, 128).toString('hex'),
    eflags: view.getUint32(RFLAGS, true) & STATUS_FLAGS,
    ax: view.getUint16(RAX, true),
  };
}

const FORM = { wide: true, longMode: true };
const X87_AREA = 0x1000;

/** Executes a case on the emulation, with its state in a vCPU's area as the engine has it. */
export function emulate(c: X87Case): X87Outcome {
  const view = new DataView(new ArrayBuffer(CASE_BYTES));
  encode(c, view);
  const state = new AreaX87State(new ArrayBuffer(X87_AREA), 0);
  if (!fxrstor(state, view, 0, FORM)) throw new Error('The case has an invalid MXCSR.');
  const x87 = new X87(state, view, MEMORY);
  x87.eflags = c.eflags ?? 0;
  x87.ax = RAX_BEFORE;
  x87.size16 = c.size16 ?? false;
  const operand = new Uint8Array(view.buffer, MEMORY, 128);
  const before = operand.slice();
  const defined = x87Encoding(c.opcode, c.modrm) !== undefined;
  const result = defined ? x87.execute(c.opcode, c.modrm) : X87_RESULT.UNDEFINED;
  if (result !== X87_RESULT.DONE) operand.set(before);
  fxsave(state, view, 0, FORM);
  const outcome = decode(view);
  outcome.fault = result === X87_RESULT.PENDING ? '#MF' : result === X87_RESULT.UNDEFINED ? '#UD' : 'none';
  outcome.eflags = x87.eflags & STATUS_FLAGS;
  outcome.ax = x87.ax;
  return outcome;
}

/** Sign, exponent and significand, readable. */
export function hex(x: Float80): string {
  const word = (n: number) => (n >>> 0).toString(16).padStart(8, '0');
  return `${x.se.toString(16).padStart(4, '0')}:${word(x.hi)}${word(x.lo)}`;
}
