import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  FXSAVE_BYTES,
  fxrstor,
  fxsave,
  MXCSR_INIT,
  readFpu,
  writeFpu,
  XFEATURE,
  XSAVE_BYTES,
  xrstor,
  xsave,
} from '../../../src/tcg/fpu/fxsave.ts';
import { AreaX87State } from '../../../src/tcg/fpu/state.ts';

const WIDE = { wide: true, longMode: true };
const NARROW = { wide: false, longMode: false };
const BOTH = XFEATURE.X87 | XFEATURE.SSE;

function area(): AreaX87State {
  return new AreaX87State(new ArrayBuffer(0x1000), 0);
}

/** A state that FXSAVE itself could have written. */
const image = fc.uint8Array({ minLength: XSAVE_BYTES, maxLength: XSAVE_BYTES }).map((bytes) => {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  view.setUint32(24, view.getUint32(24, true) & 0xffff, true);
  view.setUint32(28, 0xffff, true);
  bytes.fill(0, 512);
  return view;
});

function loaded(view: DataView): AreaX87State {
  const state = area();
  fxrstor(state, view, 0, WIDE);
  return state;
}

function saved(state: AreaX87State, form = WIDE): Uint8Array {
  const bytes = new Uint8Array(FXSAVE_BYTES);
  fxsave(state, new DataView(bytes.buffer), 0, form);
  return bytes;
}

describe('FXSAVE and FXRSTOR', () => {
  it('bring back any state', () => {
    fc.assert(
      fc.property(image, (view) => {
        const first = saved(loaded(view));
        expect(saved(loaded(new DataView(first.buffer)))).toEqual(first);
        // What has no reserved bits comes back as it was.
        expect(first.slice(160, 416)).toEqual(new Uint8Array(view.buffer, 160, 256));
      }),
    );
  });

  it('recomputes the exception summary', () => {
    const view = new DataView(new ArrayBuffer(FXSAVE_BYTES));
    view.setUint16(0, 0x37e, true);
    view.setUint16(2, 0x0001, true);

    expect(loaded(view).fsw).toBe(0x8081);
  });

  it('leave the upper XMM registers and wide pointers alone outside of 64-bit mode', () => {
    const state = area();
    state.xmm.fill(-1);
    state.fip = 0x1_2345_6789n;

    const bytes = saved(state, NARROW);

    expect(bytes.slice(288, 416).every((b) => b === 0)).toBe(true);
    expect(new DataView(bytes.buffer).getBigUint64(8, true)).toBe(0x2345_6789n);
  });

  it('refuse reserved MXCSR bits without a change', () => {
    const state = area();
    const before = saved(state);
    const view = new DataView(new Uint8Array(FXSAVE_BYTES).fill(0xff).buffer);

    expect(fxrstor(state, view, 0, WIDE)).toBe(false);
    expect(saved(state)).toEqual(before);
  });
});

describe('XSAVE and XRSTOR', () => {
  it('bring back any state', () => {
    fc.assert(
      fc.property(image, (view) => {
        const state = loaded(view);
        const first = saved(state);
        xsave(state, view, 0, WIDE, BOTH);
        expect(view.getUint32(512, true)).toBe(BOTH);

        const other = area();
        expect(xrstor(other, view, 0, WIDE, BOTH, BOTH)).toBe(true);

        expect(saved(other)).toEqual(first);
      }),
    );
  });

  it('touch only the requested components', () => {
    fc.assert(
      fc.property(image, fc.constantFrom(XFEATURE.X87, XFEATURE.SSE), (view, requested) => {
        const state = loaded(view);
        const target = new Uint8Array(XSAVE_BYTES);
        xsave(state, new DataView(target.buffer), 0, WIDE, requested);
        const x87 = [...target.slice(0, 24), ...target.slice(32, 160)];
        const sse = target.slice(160, 416);
        if (requested === XFEATURE.SSE) expect(x87.every((b) => b === 0)).toBe(true);
        else expect(sse.every((b) => b === 0)).toBe(true);
      }),
    );
  });

  it('initialize what the image does not have', () => {
    const state = area();
    state.xmm.fill(-1);
    state.fcw = 0x40;
    state.mxcsr = 0x9fc0;
    const view = new DataView(new ArrayBuffer(XSAVE_BYTES));
    view.setUint32(24, MXCSR_INIT, true);

    expect(xrstor(state, view, 0, WIDE, BOTH, BOTH)).toBe(true);

    expect([state.fcw, state.ftw, state.mxcsr, state.xmm.every((w) => w === 0)]).toEqual([
      0x37f,
      0,
      MXCSR_INIT,
      true,
    ]);
  });

  it.each([
    ['a component that XCR0 does not enable', 512],
    ['the compacted format', 527],
    ['reserved header bytes', 530],
    ['reserved MXCSR bits', 26],
  ])('refuse %s', (_, offset) => {
    const view = new DataView(new ArrayBuffer(XSAVE_BYTES));
    view.setUint8(offset, 0x80);

    expect(xrstor(area(), view, 0, WIDE, BOTH, BOTH)).toBe(false);
  });
});

describe('struct kvm_fpu', () => {
  it('carries any state over', () => {
    fc.assert(
      fc.property(image, (view) => {
        const state = loaded(view);
        const other = area();
        writeFpu(other, readFpu(state));
        expect(saved(other)).toEqual(saved(state));
      }),
    );
  });

  it('has registers from the top of the stack on', () => {
    const state = area();
    const fpr = new Uint8Array(128);
    fpr[0] = 0x5a;
    writeFpu(state, { ...readFpu(state), fsw: 3 << 11, fpr });

    expect(new Uint8Array(saved(state).buffer, 32, 1)[0]).toBe(0x5a);
    expect(readFpu(state).fpr).toEqual(fpr);
  });
});
