/** The operations by name. */
import { SSE_OPERATIONS } from '../sse/operations.ts';
import type { SystemOperation } from '../table/system-operations.ts';
import { ARITHMETIC_OPERATIONS } from './arithmetic-operations.ts';
import { CONTROL_OPERATIONS } from './control-operations.ts';
import { FLOW_OPERATIONS } from './flow-operations.ts';
import { FPU_OPERATIONS } from './fpu-operations.ts';
import { IO_OPERATIONS } from './io-operations.ts';
import type { OperationFunction } from './operations.ts';
import { SEGMENT_OPERATIONS } from './segment-operations.ts';
import { STRING_COMPARE_OPERATIONS } from './string-compare.ts';

/** What is missing raises #UD. */
export const OPERATIONS: Readonly<Partial<Record<SystemOperation, OperationFunction>>> = {
  ...ARITHMETIC_OPERATIONS,
  ...CONTROL_OPERATIONS,
  ...FLOW_OPERATIONS,
  ...FPU_OPERATIONS,
  ...IO_OPERATIONS,
  ...SEGMENT_OPERATIONS,
  ...SSE_OPERATIONS,
  ...STRING_COMPARE_OPERATIONS,
};
