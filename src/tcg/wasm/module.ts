/**
 * Assembles a WebAssembly module (core specification 5.5): shared memory, functions and i32 globals imported, one table
 * that is defined and exported, or imported.
 */
import { Expr } from './expr.ts';
import { FunctionBuilder, type FunctionRef, type Signature } from './function.ts';
import { VALUE_TYPE, type ValueType } from './opcodes.ts';
import { Sink } from './sink.ts';

/** Imported shared memory, 64 KiB pages. */
export interface MemoryImport {
  readonly initial: number;
  readonly maximum: number;
}

const SECTION = { type: 1, import: 2, function: 3, table: 4, export: 7, element: 9, code: 10 } as const;
const FUNCREF = 0x70;
/** Kinds of imports and exports. */
const KIND = { function: 0, table: 1, memory: 2, global: 3 } as const;

/** A module being written. Import everything before the first definition. */
export class ModuleBuilder {
  readonly #types: string[] = [];
  readonly #typeBytes = new Sink();
  readonly #imports: { name: string; type: number }[] = [];
  readonly #globals: string[] = [];
  readonly #functions: { type: number; builder: FunctionBuilder }[] = [];
  readonly #exports: { name: string; index: number }[] = [];
  readonly #memory: MemoryImport;
  #table: readonly FunctionRef[] = [];
  #tableName = '';
  #importedTable = '';

  constructor(memory: MemoryImport) {
    this.#memory = memory;
  }

  /** The index of a function type. */
  type({ params, results }: Signature): number {
    const key = `${params}>${results}`;
    const known = this.#types.indexOf(key);
    if (known >= 0) return known;
    this.#typeBytes.byte(0x60);
    for (const list of [params, results]) {
      this.#typeBytes.u32(list.length);
      for (const type of list) this.#typeBytes.byte(VALUE_TYPE[type]);
    }
    return this.#types.push(key) - 1;
  }

  /** Imports a function of module "env". */
  import(name: string, params: readonly ValueType[], results: readonly ValueType[] = []): FunctionRef {
    if (this.#functions.length > 0) throw new Error(`import ${name} after the first definition`);
    const index = this.#imports.push({ name, type: this.type({ params, results }) }) - 1;
    return { index, params, results };
  }

  /** Defines a function; `build` may be left for later through the builder that is passed. */
  define(signature: Signature, build: (f: FunctionBuilder) => void, exportName?: string): FunctionRef {
    const builder = new FunctionBuilder(signature);
    const index = this.#imports.length + this.#functions.push({ type: this.type(signature), builder }) - 1;
    if (exportName !== undefined) this.#exports.push({ name: exportName, index });
    build(builder);
    return { index, ...signature };
  }

  /** Imports an immutable i32 global of module "env". */
  importGlobal(name: string): Expr {
    const index = this.#globals.push(name) - 1;
    return new Expr('i32', (sink) => {
      sink.byte(0x23);
      sink.u32(index);
    });
  }

  /** Imports the table of module "env" that callIndirect() uses. */
  importTable(name: string): void {
    this.#importedTable = name;
  }

  /** Defines a table with these functions from index 0, and exports it. */
  exportTable(name: string, functions: readonly FunctionRef[]): void {
    this.#tableName = name;
    this.#table = functions;
  }

  encode(): Uint8Array<ArrayBuffer> {
    const out = new Sink();
    out.bytes([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]);
    const section = (id: number, write: (sink: Sink) => void) => {
      const content = new Sink();
      write(content);
      out.byte(id);
      out.sized(content);
    };
    section(SECTION.type, (s) => {
      s.u32(this.#types.length);
      s.bytes(this.#typeBytes.view());
    });
    section(SECTION.import, (s) => {
      const hasTable = this.#importedTable !== '';
      const item = (name: string, kind: number) => {
        s.name('env');
        s.name(name);
        s.byte(kind);
      };
      s.u32(1 + (hasTable ? 1 : 0) + this.#globals.length + this.#imports.length);
      item('memory', KIND.memory);
      // 3: shared, with a maximum.
      s.byte(3);
      s.u32(this.#memory.initial);
      s.u32(this.#memory.maximum);
      if (hasTable) {
        item(this.#importedTable, KIND.table);
        s.bytes([FUNCREF, 0, 0]);
      }
      for (const name of this.#globals) {
        item(name, KIND.global);
        s.bytes([VALUE_TYPE.i32, 0]);
      }
      for (const { name, type } of this.#imports) {
        item(name, KIND.function);
        s.u32(type);
      }
    });
    section(SECTION.function, (s) => {
      s.u32(this.#functions.length);
      for (const { type } of this.#functions) s.u32(type);
    });
    if (this.#table.length > 0) {
      section(SECTION.table, (s) => {
        s.u32(1);
        s.bytes([FUNCREF, 1]);
        s.u32(this.#table.length);
        s.u32(this.#table.length);
      });
    }
    section(SECTION.export, (s) => {
      s.u32(this.#exports.length + (this.#tableName === '' ? 0 : 1));
      if (this.#tableName !== '') {
        s.name(this.#tableName);
        s.bytes([KIND.table, 0]);
      }
      for (const { name, index } of this.#exports) {
        s.name(name);
        s.byte(KIND.function);
        s.u32(index);
      }
    });
    if (this.#table.length > 0) {
      section(SECTION.element, (s) => {
        s.u32(1);
        // Active segment of table 0 at offset 0, function indices.
        s.bytes([0, 0x41, 0, 0x0b]);
        s.u32(this.#table.length);
        for (const { index } of this.#table) s.u32(index);
      });
    }
    section(SECTION.code, (s) => {
      s.u32(this.#functions.length);
      for (const { builder } of this.#functions) s.sized(builder.encode());
    });
    return out.view().slice() as Uint8Array<ArrayBuffer>;
  }
}
