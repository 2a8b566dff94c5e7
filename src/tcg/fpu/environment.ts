/** Images of FLDENV, FSTENV, FSAVE and FRSTOR (SDM vol. 1, figures 8-9 to 8-12). */
import { BUSY, ES, type Float80 } from './float80.ts';
import { abridgedTags, controlWord, FCW_INIT, fullTags, summarized, type X87State } from './state.ts';

/** Layout of an image: operand size and addressing mode. */
export interface ImageFormat {
  readonly size16: boolean;
  /** Protected mode; real-address and virtual-8086 mode keep linear addresses instead of selectors. */
  readonly protectedMode: boolean;
}

/** Bytes of an environment. */
export function environmentBytes(format: ImageFormat): number {
  return format.size16 ? 14 : 28;
}

/**
 * Writes an environment. Selectors are written as zero, as by processors that deprecate them (CPUID.7.0:EBX[13]); in the
 * real-mode formats FIP and FDP count as linear addresses.
 */
export function storeEnvironment(
  state: X87State,
  view: DataView,
  offset: number,
  format: ImageFormat,
  scratch: Float80,
): void {
  const tags = fullTags(state, scratch);
  const ip = Number(state.fip & 0xffff_ffffn);
  const dp = Number(state.fdp & 0xffff_ffffn);
  const fop = state.fop & 0x7ff;
  if (format.size16) {
    view.setUint16(offset, state.fcw, true);
    view.setUint16(offset + 2, state.fsw, true);
    view.setUint16(offset + 4, tags, true);
    view.setUint16(offset + 6, ip & 0xffff, true);
    view.setUint16(offset + 8, format.protectedMode ? 0 : ((ip >>> 4) & 0xf000) | fop, true);
    view.setUint16(offset + 10, dp & 0xffff, true);
    view.setUint16(offset + 12, format.protectedMode ? 0 : (dp >>> 4) & 0xf000, true);
    return;
  }
  // Reserved halves read as ones.
  view.setUint32(offset, 0xffff_0000 | state.fcw, true);
  view.setUint32(offset + 4, 0xffff_0000 | state.fsw, true);
  view.setUint32(offset + 8, 0xffff_0000 | tags, true);
  if (format.protectedMode) {
    view.setUint32(offset + 12, ip, true);
    view.setUint32(offset + 16, fop << 16, true);
    view.setUint32(offset + 20, dp, true);
    view.setUint32(offset + 24, 0xffff_0000, true);
  } else {
    view.setUint32(offset + 12, 0xffff_0000 | (ip & 0xffff), true);
    view.setUint32(offset + 16, (((ip >>> 16) & 0xffff) << 12) | fop, true);
    view.setUint32(offset + 20, 0xffff_0000 | (dp & 0xffff), true);
    view.setUint32(offset + 24, ((dp >>> 16) & 0xffff) << 12, true);
  }
}

/** Loads an environment; exceptions it leaves unmasked are pending. */
export function loadEnvironment(state: X87State, view: DataView, offset: number, format: ImageFormat): void {
  const step = format.size16 ? 2 : 4;
  const word = (index: number) => view.getUint16(offset + index * step, true);
  state.fcw = controlWord(word(0));
  state.fsw = summarized(word(1), state.fcw);
  state.ftw = abridgedTags(word(2));
  if (format.size16) {
    const high = (index: number) => (format.protectedMode ? 0 : (word(index) & 0xf000) << 4);
    state.fip = BigInt(word(3) | high(4));
    state.fdp = BigInt(word(5) | high(6));
    state.fop = format.protectedMode ? 0 : word(4) & 0x7ff;
    return;
  }
  const dword = (index: number) => view.getUint32(offset + index * 4, true);
  if (format.protectedMode) {
    state.fip = BigInt(dword(3));
    state.fop = (dword(4) >>> 16) & 0x7ff;
    state.fdp = BigInt(dword(5));
  } else {
    state.fip = BigInt(((dword(3) & 0xffff) | (((dword(4) >>> 12) & 0xffff) << 16)) >>> 0);
    state.fop = dword(4) & 0x7ff;
    state.fdp = BigInt(((dword(5) & 0xffff) | (((dword(6) >>> 12) & 0xffff) << 16)) >>> 0);
  }
}

/** FNSAVE's image: the environment, then the registers from ST(0) on. */
export function storeState(
  state: X87State,
  view: DataView,
  offset: number,
  format: ImageFormat,
  scratch: Float80,
): void {
  storeEnvironment(state, view, offset, format, scratch);
  const top = (state.fsw >> 11) & 7;
  for (let i = 0; i < 8; i++) {
    state.readRegister((top + i) & 7, scratch);
    scratch.write(view, offset + environmentBytes(format) + i * 10);
  }
}

/** FRSTOR. */
export function loadState(
  state: X87State,
  view: DataView,
  offset: number,
  format: ImageFormat,
  scratch: Float80,
): void {
  loadEnvironment(state, view, offset, format);
  const top = (state.fsw >> 11) & 7;
  for (let i = 0; i < 8; i++) {
    scratch.read(view, offset + environmentBytes(format) + i * 10);
    state.writeRegister((top + i) & 7, scratch);
  }
}

/** FNINIT (SDM vol. 1, table 8-1): the register contents stay. */
export function initialize(state: X87State): void {
  state.fcw = FCW_INIT;
  state.fsw = 0;
  state.ftw = 0;
  state.fop = 0;
  state.fip = 0n;
  state.fdp = 0n;
}

/** FNCLEX: exceptions, stack fault, ES and B. */
export function clearExceptions(state: X87State): void {
  state.fsw &= ~(0x7f | ES | BUSY);
}
