/** System instructions: time and processor id, SMAP, segment bases, address-space invalidation. */
import { CPU_FEATURES, hasFeature } from '../cpuid/index.ts';
import { CR4 } from '../entry.ts';
import { MSR } from '../msrs.ts';
import { type AssistContext, FLAG } from './context.ts';
import type { Instruction } from './decode.ts';
import { generalProtection, undefinedOpcode } from './fault.ts';
import type { Operation, Outcome } from './operation.ts';

const RAX = 0;
const RCX = 1;
const RDX = 2;

/** CR4.TSD: RDTSC and RDTSCP are for the kernel. */
const CR4_TSD = 1n << 2n;

function readMsr(context: AssistContext, index: number): bigint {
  return context.cpu.getMsrs([index])[0].data;
}

/** IA32_TSC_AUX exists with RDTSCP or RDPID. */
function tscAux(context: AssistContext): bigint {
  const table = context.cpu.get('cpuid');
  const present = ['rdtscp', 'rdpid'].some((name) => hasFeature(table, CPU_FEATURES.get(name)!));
  if (!present) throw undefinedOpcode();
  return readMsr(context, MSR.IA32_TSC_AUX);
}

function setAc(value: boolean) {
  return (context: AssistContext): Outcome => {
    if (context.cpl !== 0) throw undefinedOpcode();
    context.regs.rflags = value ? context.regs.rflags | FLAG.AC : context.regs.rflags & ~FLAG.AC;
    return undefined;
  };
}

function segmentBase(mnemonic: string, group: number, name: 'fs' | 'gs', write: boolean): Operation {
  return {
    mnemonic,
    map: 1,
    opcode: 0xae,
    prefix: 2,
    group,
    form: 'register',
    run(context, instruction) {
      if (context.width !== 64) throw undefinedOpcode();
      context.requireCr4(CR4.FSGSBASE);
      const size = instruction.w ? 8 : 4;
      if (!write) {
        context.setGpr(instruction.rm, size, context.sregs[name].base);
        return undefined;
      }
      const base = context.gpr(instruction.rm, size);
      if (!isCanonical(context, base)) throw generalProtection();
      context.sregs[name].base = base;
      context.sregsChanged = true;
      return undefined;
    },
  };
}

function isCanonical(context: AssistContext, address: bigint): boolean {
  const width = (context.sregs.cr4 & CR4.LA57) !== 0n ? 57 : 48;
  return BigInt.asUintN(64, BigInt.asIntN(width, address)) === address;
}

/** INVPCID types (SDM vol. 2A). */
const INVPCID_ADDRESS = 0n;
const INVPCID_CONTEXT = 1n;
const INVPCID_ALL_BUT_GLOBAL = 3n;

function invpcid(context: AssistContext, instruction: Instruction): Outcome {
  if (instruction.memory === undefined || context.realMode) throw undefinedOpcode();
  context.requireCpl0();
  const type = context.gpr(instruction.reg, context.width === 64 ? 8 : 4);
  const linear = context.linear(instruction, instruction.memory, 16, false);
  const pcid = context.readInt(linear, 8);
  const address = context.readInt(linear + 8n, 8);
  if (type > INVPCID_ALL_BUT_GLOBAL || pcid >> 12n !== 0n) throw generalProtection();
  if (type === INVPCID_ADDRESS && !isCanonical(context, address)) throw generalProtection();
  const usesPcid = type === INVPCID_ADDRESS || type === INVPCID_CONTEXT;
  if (usesPcid && (context.sregs.cr4 & CR4.PCIDE) === 0n && pcid !== 0n) throw generalProtection();
  // Invalidating more than asked is always allowed; KVM flushes everything when CR4.PGE changes.
  context.cpu.set('sregs', { ...context.sregs, cr4: context.sregs.cr4 ^ CR4.PGE });
  context.cpu.set('sregs', context.sregs);
  return undefined;
}

export const SYSTEM: readonly Operation[] = [
  {
    mnemonic: 'rdtscp',
    map: 1,
    opcode: 0x01,
    group: 7,
    form: 'register',
    rm: 1,
    run(context) {
      if ((context.sregs.cr4 & CR4_TSD) !== 0n) context.requireCpl0();
      const aux = tscAux(context);
      const tsc = readMsr(context, MSR.IA32_TSC);
      context.setGpr(RAX, 4, tsc);
      context.setGpr(RDX, 4, tsc >> 32n);
      context.setGpr(RCX, 4, aux);
      return undefined;
    },
  },
  {
    mnemonic: 'rdpid',
    map: 1,
    opcode: 0xc7,
    prefix: 2,
    group: 7,
    form: 'register',
    run(context, instruction) {
      context.setGpr(instruction.rm, context.width === 64 ? 8 : 4, tscAux(context));
      return undefined;
    },
  },
  { mnemonic: 'clac', map: 1, opcode: 0x01, prefix: 0, group: 1, form: 'register', rm: 2, run: setAc(false) },
  { mnemonic: 'stac', map: 1, opcode: 0x01, prefix: 0, group: 1, form: 'register', rm: 3, run: setAc(true) },
  {
    mnemonic: 'swapgs',
    map: 1,
    opcode: 0x01,
    group: 7,
    form: 'register',
    rm: 0,
    run(context) {
      if (context.width !== 64) throw undefinedOpcode();
      context.requireCpl0();
      const data = context.sregs.gs.base;
      context.sregs.gs.base = readMsr(context, MSR.IA32_KERNEL_GS_BASE);
      context.sregsChanged = true;
      context.cpu.set('msrs', [{ index: MSR.IA32_KERNEL_GS_BASE, data }]);
      return undefined;
    },
  },
  segmentBase('rdfsbase', 0, 'fs', false),
  segmentBase('rdgsbase', 1, 'gs', false),
  segmentBase('wrfsbase', 2, 'fs', true),
  segmentBase('wrgsbase', 3, 'gs', true),
  { mnemonic: 'invpcid', map: 2, opcode: 0x82, prefix: 1, run: invpcid },
];
