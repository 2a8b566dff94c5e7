/** What a small guest is: the code, and what it must print on whichever processor runs it. */

/** A guest that reports through port 0xE9 and ends with HLT. */
export interface GuestCase {
  readonly name: string;
  /** The whole program (prelude64.ts, prelude32.ts). */
  readonly source: string;
  /** Where execution begins: `long64` at 1 MiB, `real` at 0x7C00. */
  readonly mode: 'long64' | 'real';
  /** Everything it prints. */
  readonly output: string;
  /** How it ends, by default with HLT. */
  readonly ends?: 'halt' | 'triple-fault' | 'exit';
  /** With interrupt controllers; it then ends by writing to port 0xF4, because HLT waits. */
  readonly hasApic?: boolean;
  readonly cpus?: number;
  /** Why KVM in software (src/kvm/probe.ts) cannot run it; on a processor with VT-x or AMD-V it runs. */
  readonly notOnSoftwareKvm?: string;
  /** Why KVM differs on any host: its processor's vendor does, or it does more than tcg. */
  readonly notOnKvm?: string;
}
