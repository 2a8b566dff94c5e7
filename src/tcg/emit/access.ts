/**
 * Access kinds of translations; a modify needs both permissions. The last two are for the generated code only: a modify
 * with LOCK, and one that no atomic access covers, for which the other vCPUs are stopped until afterStore().
 */
export const ACCESS = { read: 0, write: 1, modify: 2, execute: 3, locked: 4, split: 5 } as const;
/** An access of an instruction's operand. */
export type Access = (typeof ACCESS)['read' | 'write' | 'modify' | 'locked' | 'split'];
