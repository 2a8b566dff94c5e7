/** A small typed writer of WebAssembly modules. */
export { constant, Expr, f32, f64, i32, i64, load, type Operand, select, v128, vector } from './expr.ts';
export { FunctionBuilder, type FunctionRef, type Label, Local, type Signature } from './function.ts';
export { type MemoryImport, ModuleBuilder } from './module.ts';
export type { LoadOp, StoreOp, ValueType } from './opcodes.ts';
