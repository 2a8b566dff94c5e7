/** Opcodes of WebAssembly 2.0 with threads (core specification 5.4; threads proposal), by their text names. */

/** Value types and their binary encodings. */
export const VALUE_TYPE = { i32: 0x7f, i64: 0x7e, f32: 0x7d, f64: 0x7c, v128: 0x7b } as const;
export type ValueType = keyof typeof VALUE_TYPE;

/** Consecutive opcodes from a first one; `_` is a gap. */
function run(first: number, names: string): Record<string, number> {
  const table: Record<string, number> = {};
  names.split(' ').forEach((name, i) => {
    if (name !== '_') table[name] = first + i;
  });
  return table;
}

const COMPARE = 'eq ne lt_s lt_u gt_s gt_u le_s le_u ge_s ge_u';
const INTEGER = 'clz ctz popcnt add sub mul div_s div_u rem_s rem_u and or xor shl shr_s shr_u rotl rotr';
const FLOAT = 'abs neg ceil floor trunc nearest sqrt add sub mul div min max copysign';

/** Operators that take and give values of one type, or compare them. */
export const NUMERIC: Readonly<Record<'i32' | 'i64' | 'f32' | 'f64', Readonly<Record<string, number>>>> = {
  i32: { eqz: 0x45, ...run(0x46, COMPARE), ...run(0x67, INTEGER), ...run(0xc0, 'extend8_s extend16_s') },
  i64: {
    eqz: 0x50,
    ...run(0x51, COMPARE),
    ...run(0x79, INTEGER),
    ...run(0xc2, 'extend8_s extend16_s extend32_s'),
  },
  f32: { ...run(0x5b, 'eq ne lt gt le ge'), ...run(0x8b, FLOAT) },
  f64: { ...run(0x61, 'eq ne lt gt le ge'), ...run(0x99, FLOAT) },
};

/** Conversions; the operand type is in the name, the result type in front of the dot. */
export const CONVERT = {
  'i32.wrap_i64': 0xa7,
  'i64.extend_i32_s': 0xac,
  'i64.extend_i32_u': 0xad,
  'f32.convert_i32_s': 0xb2,
  'f32.convert_i64_s': 0xb4,
  'f32.demote_f64': 0xb6,
  'f64.convert_i32_s': 0xb7,
  'f64.convert_i64_s': 0xb9,
  'f64.promote_f32': 0xbb,
  'i32.reinterpret_f32': 0xbc,
  'i64.reinterpret_f64': 0xbd,
  'f32.reinterpret_i32': 0xbe,
  'f64.reinterpret_i64': 0xbf,
  'i32.trunc_sat_f32_s': 0xfc00,
  'i32.trunc_sat_f64_s': 0xfc02,
  'i64.trunc_sat_f32_s': 0xfc04,
  'i64.trunc_sat_f64_s': 0xfc06,
} as const;

/** Loads: opcode and natural alignment (log2). */
export const LOAD = {
  'i32.load': [0x28, 2],
  'i64.load': [0x29, 3],
  'f32.load': [0x2a, 2],
  'f64.load': [0x2b, 3],
  'i32.load8_s': [0x2c, 0],
  'i32.load8_u': [0x2d, 0],
  'i32.load16_s': [0x2e, 1],
  'i32.load16_u': [0x2f, 1],
  'i64.load8_s': [0x30, 0],
  'i64.load8_u': [0x31, 0],
  'i64.load16_s': [0x32, 1],
  'i64.load16_u': [0x33, 1],
  'i64.load32_s': [0x34, 2],
  'i64.load32_u': [0x35, 2],
  'v128.load': [0xfd00, 4],
  'v128.load32_zero': [0xfd5c, 2],
  'v128.load64_zero': [0xfd5d, 3],
  'i32.atomic.load': [0xfe10, 2],
  'i64.atomic.load': [0xfe11, 3],
  'i32.atomic.load8_u': [0xfe12, 0],
  'i64.atomic.load8_u': [0xfe14, 0],
  'i64.atomic.load16_u': [0xfe15, 1],
  'i64.atomic.load32_u': [0xfe16, 2],
} as const;
export type LoadOp = keyof typeof LOAD;

/** Stores: opcode and natural alignment (log2). */
export const STORE = {
  'i32.store': [0x36, 2],
  'i64.store': [0x37, 3],
  'f32.store': [0x38, 2],
  'f64.store': [0x39, 3],
  'i32.store8': [0x3a, 0],
  'i32.store16': [0x3b, 1],
  'i64.store8': [0x3c, 0],
  'i64.store16': [0x3d, 1],
  'i64.store32': [0x3e, 2],
  'v128.store': [0xfd0b, 4],
  'i32.atomic.store': [0xfe17, 2],
  'i64.atomic.store': [0xfe18, 3],
} as const;
export type StoreOp = keyof typeof STORE;

/** Atomic read-modify-writes of an i64 by access size in bytes: opcode and alignment; alignment is checked. */
export const ATOMIC_CMPXCHG = {
  1: [0xfe4c, 0],
  2: [0xfe4d, 1],
  4: [0xfe4e, 2],
  8: [0xfe49, 3],
} as const;

const LANE_COMPARE = 'eq ne lt_s lt_u gt_s gt_u le_s le_u ge_s ge_u';

/** Vector operators without immediates (core specification 5.4.9). All take vectors but splat and shifts. */
export const VECTOR: Readonly<Record<string, number>> = {
  'i8x16.swizzle': 14,
  'i8x16.splat': 15,
  'i16x8.splat': 16,
  'i32x4.splat': 17,
  'i64x2.splat': 18,
  'f32x4.splat': 19,
  'f64x2.splat': 20,
  ...named('i8x16', 35, LANE_COMPARE),
  ...named('i16x8', 45, LANE_COMPARE),
  ...named('i32x4', 55, LANE_COMPARE),
  ...named('f32x4', 65, 'eq ne lt gt le ge'),
  ...named('f64x2', 71, 'eq ne lt gt le ge'),
  ...named('v128', 77, 'not and andnot or xor bitselect any_true'),
  'f32x4.demote_f64x2_zero': 94,
  'f64x2.promote_low_f32x4': 95,
  ...named('i8x16', 96, 'abs neg popcnt all_true bitmask narrow_i16x8_s narrow_i16x8_u'),
  ...named('f32x4', 103, 'ceil floor trunc nearest'),
  ...named('i8x16', 107, 'shl shr_s shr_u add add_sat_s add_sat_u sub sub_sat_s sub_sat_u'),
  ...named('f64x2', 116, 'ceil floor'),
  ...named('i8x16', 118, 'min_s min_u max_s max_u'),
  'f64x2.trunc': 122,
  'i8x16.avgr_u': 123,
  ...named('i16x8', 124, 'extadd_pairwise_i8x16_s extadd_pairwise_i8x16_u'),
  ...named('i32x4', 126, 'extadd_pairwise_i16x8_s extadd_pairwise_i16x8_u'),
  ...named('i16x8', 128, 'abs neg q15mulr_sat_s all_true bitmask narrow_i32x4_s narrow_i32x4_u'),
  ...named('i16x8', 135, 'extend_low_i8x16_s extend_high_i8x16_s extend_low_i8x16_u extend_high_i8x16_u'),
  ...named('i16x8', 139, 'shl shr_s shr_u add add_sat_s add_sat_u sub sub_sat_s sub_sat_u'),
  'f64x2.nearest': 148,
  ...named('i16x8', 149, 'mul min_s min_u max_s max_u'),
  'i16x8.avgr_u': 155,
  ...named('i16x8', 156, 'extmul_low_i8x16_s extmul_high_i8x16_s extmul_low_i8x16_u extmul_high_i8x16_u'),
  ...named('i32x4', 160, 'abs neg _ all_true bitmask'),
  ...named('i32x4', 167, 'extend_low_i16x8_s extend_high_i16x8_s extend_low_i16x8_u extend_high_i16x8_u'),
  ...named('i32x4', 171, 'shl shr_s shr_u add _ _ sub _ _ _ mul min_s min_u max_s max_u dot_i16x8_s'),
  ...named('i32x4', 188, 'extmul_low_i16x8_s extmul_high_i16x8_s extmul_low_i16x8_u extmul_high_i16x8_u'),
  ...named('i64x2', 192, 'abs neg _ all_true bitmask'),
  ...named('i64x2', 199, 'extend_low_i32x4_s extend_high_i32x4_s extend_low_i32x4_u extend_high_i32x4_u'),
  ...named('i64x2', 203, 'shl shr_s shr_u add _ _ sub _ _ _ mul eq ne lt_s gt_s le_s ge_s'),
  ...named('i64x2', 220, 'extmul_low_i32x4_s extmul_high_i32x4_s extmul_low_i32x4_u extmul_high_i32x4_u'),
  ...named('f32x4', 224, 'abs neg _ sqrt add sub mul div min max pmin pmax'),
  ...named('f64x2', 236, 'abs neg _ sqrt add sub mul div min max pmin pmax'),
  'i32x4.trunc_sat_f32x4_s': 248,
  'f32x4.convert_i32x4_s': 250,
  'i32x4.trunc_sat_f64x2_s_zero': 252,
  'f64x2.convert_low_i32x4_s': 254,
};

/** Lane access, with a lane number as immediate. */
export const LANE: Readonly<Record<string, number>> = {
  'i8x16.extract_lane_u': 22,
  'i8x16.replace_lane': 23,
  'i16x8.extract_lane_u': 25,
  'i16x8.replace_lane': 26,
  'i32x4.extract_lane': 27,
  'i32x4.replace_lane': 28,
  'i64x2.extract_lane': 29,
  'i64x2.replace_lane': 30,
  'f32x4.extract_lane': 31,
  'f32x4.replace_lane': 32,
  'f64x2.extract_lane': 33,
  'f64x2.replace_lane': 34,
};

function named(shape: string, first: number, names: string): Record<string, number> {
  return Object.fromEntries(
    Object.entries(run(first, names)).map(([name, opcode]) => [`${shape}.${name}`, opcode]),
  );
}
