/** All small guests, by topic. */
import type { GuestCase } from './case.ts';
import { APIC } from './cases/apic.ts';
import { DEBUGGING } from './cases/debugging.ts';
import { PAGING } from './cases/paging.ts';
import { PAGING32 } from './cases/paging32.ts';
import { PRIVILEGE } from './cases/privilege.ts';
import { PROTECTED } from './cases/protected.ts';
import { REAL } from './cases/real.ts';
import { TRANSFERS } from './cases/transfers.ts';

export const TOPICS: Readonly<Record<string, readonly GuestCase[]>> = {
  paging: PAGING,
  paging32: PAGING32,
  transfers: TRANSFERS,
  privilege: PRIVILEGE,
  debugging: DEBUGGING,
  protected: PROTECTED,
  real: REAL,
  apic: APIC,
};
