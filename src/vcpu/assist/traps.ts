/** INT3, INT n and ICEBP (Intel SDM vol. 2A, INT n/INTO/INT3/INT1). */
import { VECTOR } from './fault.ts';
import { deliverSoftwareInterrupt } from './interrupt.ts';
import type { Operation } from './operation.ts';

export const TRAPS: readonly Operation[] = [
  {
    mnemonic: 'int3',
    map: 0,
    opcode: 0xcc,
    run: () => ({ kind: 'exception', vector: VECTOR.BP }),
  },
  {
    mnemonic: 'icebp',
    map: 0,
    opcode: 0xf1,
    run: () => ({ kind: 'exception', vector: VECTOR.DB }),
  },
  {
    mnemonic: 'int',
    map: 0,
    opcode: 0xcd,
    run(context, instruction) {
      deliverSoftwareInterrupt(context, Number(instruction.immediate & 0xffn), context.nextRip(instruction));
      return 'jumped';
    },
  },
];
