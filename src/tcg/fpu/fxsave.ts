/**
 * Images of FXSAVE, FXRSTOR, and of XSAVE and XRSTOR as far as x87 and SSE go (SDM vol. 1, 10.5.1 and chapter 13), and
 * conversion to and from {@link Fpu}.
 */
import type { Fpu } from '../../vcpu/state.ts';
import { initialize } from './environment.ts';
import { Float80 } from './float80.ts';
import { controlWord, summarized, type X87State } from './state.ts';

/** x87 state together with the SSE registers that share its images. */
export interface FxState extends X87State {
  mxcsr: number;
  /** XMM0 to XMM15, live, in 32-bit words. */
  readonly xmm: Int32Array;
}

/** Form of an image. */
export interface FxForm {
  /** REX.W: FIP and FDP have 64 bits; otherwise 32 and a selector, which is stored as zero. */
  readonly wide: boolean;
  /** 64-bit mode: sixteen XMM registers instead of eight. */
  readonly longMode: boolean;
}

/** Bytes of an FXSAVE image and of XSAVE's legacy region. */
export const FXSAVE_BYTES = 512;
/** Bytes of an XSAVE area with x87 and SSE: the legacy region and the header. */
export const XSAVE_BYTES = 576;
/** XCR0 and XSTATE_BV bits (SDM vol. 1, 13.1). */
export const XFEATURE = { X87: 1, SSE: 2, AVX: 4 } as const;
/** Writable bits of MXCSR, with denormals-are-zero. */
export const MXCSR_MASK = 0xffff;
/** MXCSR after reset (SDM vol. 1, 10.2.3). */
export const MXCSR_INIT = 0x1f80;

// Offsets in the legacy region (SDM vol. 1, table 10-2).
const FCW = 0;
const FSW = 2;
const FTW = 4;
const FOP = 6;
const FIP = 8;
const FCS = 12;
const FDP = 16;
const FDS = 20;
const MXCSR = 24;
const MXCSR_MASK_FIELD = 28;
const ST = 32;
const XMM = 160;
/** The header and its fields (SDM vol. 1, 13.4.2). */
const XSTATE_BV = 512;
const HEADER_RESERVED = 520;

const scratch = new Float80();

function saveX87(state: FxState, view: DataView, offset: number, form: FxForm): void {
  view.setUint16(offset + FCW, state.fcw, true);
  view.setUint16(offset + FSW, state.fsw, true);
  view.setUint16(offset + FTW, state.ftw, true);
  view.setUint16(offset + FOP, state.fop, true);
  if (form.wide) {
    view.setBigUint64(offset + FIP, state.fip, true);
    view.setBigUint64(offset + FDP, state.fdp, true);
  } else {
    view.setUint32(offset + FIP, Number(state.fip & 0xffff_ffffn), true);
    view.setUint32(offset + FCS, 0, true);
    view.setUint32(offset + FDP, Number(state.fdp & 0xffff_ffffn), true);
    view.setUint32(offset + FDS, 0, true);
  }
  const top = (state.fsw >> 11) & 7;
  for (let i = 0; i < 8; i++) {
    const slot = offset + ST + i * 16;
    state.readRegister((top + i) & 7, scratch);
    scratch.write(view, slot);
    view.setUint16(slot + 10, 0, true);
    view.setUint32(slot + 12, 0, true);
  }
}

function loadX87(state: FxState, view: DataView, offset: number, form: FxForm): void {
  state.fcw = controlWord(view.getUint16(offset + FCW, true));
  state.fsw = summarized(view.getUint16(offset + FSW, true), state.fcw);
  state.ftw = view.getUint8(offset + FTW);
  state.fop = view.getUint16(offset + FOP, true) & 0x7ff;
  if (form.wide) {
    state.fip = view.getBigUint64(offset + FIP, true);
    state.fdp = view.getBigUint64(offset + FDP, true);
  } else {
    state.fip = BigInt(view.getUint32(offset + FIP, true));
    state.fdp = BigInt(view.getUint32(offset + FDP, true));
  }
  const top = (state.fsw >> 11) & 7;
  for (let i = 0; i < 8; i++) {
    state.writeRegister((top + i) & 7, scratch.read(view, offset + ST + i * 16));
  }
}

/** Resets the x87 state to its initial configuration, registers too (SDM vol. 1, 13.6). */
function initializeX87(state: FxState): void {
  initialize(state);
  scratch.set(0, 0, 0);
  for (let i = 0; i < 8; i++) state.writeRegister(i, scratch);
}

function saveXmm(state: FxState, view: DataView, offset: number, form: FxForm): void {
  const words = form.longMode ? 64 : 32;
  for (let i = 0; i < words; i++) view.setInt32(offset + XMM + i * 4, state.xmm[i], true);
}

function loadXmm(state: FxState, view: DataView, offset: number, form: FxForm): void {
  const words = form.longMode ? 64 : 32;
  for (let i = 0; i < words; i++) state.xmm[i] = view.getInt32(offset + XMM + i * 4, true);
}

function saveMxcsr(state: FxState, view: DataView, offset: number): void {
  view.setUint32(offset + MXCSR, state.mxcsr, true);
  view.setUint32(offset + MXCSR_MASK_FIELD, MXCSR_MASK, true);
}

/** An image's MXCSR, read once: another vCPU may write to it. @returns undefined where reserved bits are set */
function mxcsrOf(view: DataView, offset: number): number | undefined {
  const mxcsr = view.getUint32(offset + MXCSR, true);
  return (mxcsr & ~MXCSR_MASK) === 0 ? mxcsr : undefined;
}

/**
 * FXSAVE: writes 416 bytes; those up to 512 stay as they are.
 * @param offset of the image in the view
 */
export function fxsave(state: FxState, view: DataView, offset: number, form: FxForm): void {
  saveX87(state, view, offset, form);
  saveMxcsr(state, view, offset);
  saveXmm(state, view, offset, form);
}

/**
 * FXRSTOR.
 * @returns false for reserved bits in MXCSR, which raise #GP(0); nothing is changed then
 */
export function fxrstor(state: FxState, view: DataView, offset: number, form: FxForm): boolean {
  const mxcsr = mxcsrOf(view, offset);
  if (mxcsr === undefined) return false;
  loadX87(state, view, offset, form);
  state.mxcsr = mxcsr;
  loadXmm(state, view, offset, form);
  return true;
}

/**
 * XSAVE in the standard format, without components other than x87 and SSE (SDM vol. 1, 13.7).
 * @param requested EDX:EAX and XCR0, lower half
 */
export function xsave(state: FxState, view: DataView, offset: number, form: FxForm, requested: number): void {
  if ((requested & XFEATURE.X87) !== 0) saveX87(state, view, offset, form);
  if ((requested & (XFEATURE.SSE | XFEATURE.AVX)) !== 0) saveMxcsr(state, view, offset);
  if ((requested & XFEATURE.SSE) !== 0) saveXmm(state, view, offset, form);
  const saved = requested & (XFEATURE.X87 | XFEATURE.SSE);
  view.setUint32(offset + XSTATE_BV, view.getUint32(offset + XSTATE_BV, true) | saved, true);
}

/**
 * XRSTOR from the standard format, without components other than x87 and SSE (SDM vol. 1, 13.8.1).
 * @param requested EDX:EAX and XCR0, lower half
 * @param xcr0 lower half
 * @returns false for a header or MXCSR that raises #GP(0); nothing is changed then
 */
export function xrstor(
  state: FxState,
  view: DataView,
  offset: number,
  form: FxForm,
  requested: number,
  xcr0: number,
): boolean {
  const present = view.getUint32(offset + XSTATE_BV, true);
  if ((present & ~xcr0) !== 0 || view.getUint32(offset + XSTATE_BV + 4, true) !== 0) return false;
  // XCOMP_BV: the compacted format is not offered. The eight bytes behind it are reserved as well.
  for (let i = 0; i < 16; i += 4) if (view.getUint32(offset + HEADER_RESERVED + i, true) !== 0) return false;
  const withMxcsr = (requested & (XFEATURE.SSE | XFEATURE.AVX)) !== 0;
  const mxcsr = withMxcsr ? mxcsrOf(view, offset) : state.mxcsr;
  if (mxcsr === undefined) return false;
  if ((requested & XFEATURE.X87) !== 0) {
    if ((present & XFEATURE.X87) !== 0) loadX87(state, view, offset, form);
    else initializeX87(state);
  }
  state.mxcsr = mxcsr;
  if ((requested & XFEATURE.SSE) !== 0) {
    if ((present & XFEATURE.SSE) !== 0) loadXmm(state, view, offset, form);
    else state.xmm.fill(0, 0, form.longMode ? 64 : 32);
  }
  return true;
}

const KVM_FORM: FxForm = { wide: true, longMode: true };

/** The state as struct kvm_fpu has it: registers from ST(0) on. */
export function readFpu(state: FxState): Fpu {
  const view = new DataView(new ArrayBuffer(FXSAVE_BYTES));
  fxsave(state, view, 0, KVM_FORM);
  return {
    fpr: new Uint8Array(view.buffer.slice(ST, XMM)),
    fcw: state.fcw,
    fsw: state.fsw,
    ftwx: state.ftw,
    last_opcode: state.fop,
    last_ip: state.fip,
    last_dp: state.fdp,
    xmm: new Uint8Array(view.buffer.slice(XMM, XMM + 256)),
    mxcsr: state.mxcsr,
  };
}

/** Takes over struct kvm_fpu; reserved bits of the control words are dropped. */
export function writeFpu(state: FxState, fpu: Fpu): void {
  const view = new DataView(new ArrayBuffer(FXSAVE_BYTES));
  view.setUint16(FCW, fpu.fcw, true);
  view.setUint16(FSW, fpu.fsw, true);
  view.setUint8(FTW, fpu.ftwx);
  view.setUint16(FOP, fpu.last_opcode, true);
  view.setBigUint64(FIP, fpu.last_ip, true);
  view.setBigUint64(FDP, fpu.last_dp, true);
  view.setUint32(MXCSR, fpu.mxcsr & MXCSR_MASK, true);
  const bytes = new Uint8Array(view.buffer);
  bytes.set(fpu.fpr.subarray(0, XMM - ST), ST);
  bytes.set(fpu.xmm.subarray(0, 256), XMM);
  fxrstor(state, view, 0, KVM_FORM);
}
