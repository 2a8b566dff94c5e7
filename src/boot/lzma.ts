/**
 * The LZMA decoder: an LZ77 scheme whose every decision is a binary one, coded by an adaptive range coder
 * (LZMA specification of the LZMA SDK). LZMA2 chunks and the old .lzma format both end here.
 */

/** States 0 to 6 follow a literal, 7 to 11 a match or repetition. */
const STATES = 12;
const FIRST_MATCH_STATE = 7;
const POS_STATES_MAX = 16;
/** Probabilities are 11 bits; learning moves them by 1/32. */
const PROB_BITS = 11;
const PROB_INIT = 1 << (PROB_BITS - 1);
const MOVE_BITS = 5;
const TOP_VALUE = 0x1000000;

const MATCH_MIN = 2;
/** Length coder: two choice bits, then 8 short, 8 middle and 256 long lengths. */
const LEN_CHOICE = 0;
const LEN_CHOICE2 = 1;
const LEN_LOW = 2;
const LEN_MID = LEN_LOW + POS_STATES_MAX * 8;
const LEN_HIGH = LEN_MID + POS_STATES_MAX * 8;
const LEN_PROBS = LEN_HIGH + 256;

const DIST_STATES = 4;
const DIST_SLOTS = 64;
/** From this slot on the middle bits of a distance are not modelled. */
const DIST_MODEL_END = 14;
const FULL_DISTANCES = 128;
const ALIGN_BITS = 4;

/** Where each set of probabilities begins in the one array. */
const IS_MATCH = 0;
const IS_REP = IS_MATCH + STATES * POS_STATES_MAX;
const IS_REP0 = IS_REP + STATES;
const IS_REP1 = IS_REP0 + STATES;
const IS_REP2 = IS_REP1 + STATES;
const IS_REP0_LONG = IS_REP2 + STATES;
const DIST_SLOT = IS_REP0_LONG + STATES * POS_STATES_MAX;
const DIST_SPECIAL = DIST_SLOT + DIST_STATES * DIST_SLOTS;
const DIST_ALIGN = DIST_SPECIAL + FULL_DISTANCES - DIST_MODEL_END + 1;
const MATCH_LEN = DIST_ALIGN + (1 << ALIGN_BITS);
const REP_LEN = MATCH_LEN + LEN_PROBS;
const LITERAL = REP_LEN + LEN_PROBS;
const LITERAL_PROBS = 0x300;

/** Distance that marks the end of a .lzma stream. */
const END_MARKER = 0xffffffff;

/** What is wrong with LZMA data. */
export class LzmaError extends Error {}

/** Literal context bits, literal position bits, position bits. */
export interface LzmaProperties {
  readonly lc: number;
  readonly lp: number;
  readonly pb: number;
}

/** Splits the byte that holds the three properties. @throws LzmaError */
export function lzmaProperties(byte: number): LzmaProperties {
  if (byte >= 9 * 5 * 5) throw new LzmaError('its LZMA properties are impossible');
  return { lc: byte % 9, lp: Math.floor(byte / 9) % 5, pb: Math.floor(byte / 45) };
}

/** Decodes into one buffer, which is the dictionary at the same time. */
export class LzmaDecoder {
  readonly output: Uint8Array;
  /** Bytes of `output` that are filled. */
  position = 0;
  /** No match may reach behind this position of `output`. */
  dictionaryStart = 0;

  readonly #input: Uint8Array;
  #probs = new Uint16Array(0);
  #lc = 0;
  #literalPosMask = 0;
  #posMask = 0;
  #state = 0;
  #rep0 = 0;
  #rep1 = 0;
  #rep2 = 0;
  #rep3 = 0;
  #range = 0;
  #code = 0;
  #at = 0;
  #end = 0;

  constructor(input: Uint8Array, output: Uint8Array) {
    this.#input = input;
    this.output = output;
  }

  /** Where the range coder has read to. */
  get inputPosition(): number {
    return this.#at;
  }

  /** Takes new properties and forgets what was learnt. */
  setProperties({ lc, lp, pb }: LzmaProperties): void {
    this.#lc = lc;
    this.#literalPosMask = (1 << lp) - 1;
    this.#posMask = (1 << pb) - 1;
    this.#probs = new Uint16Array(LITERAL + (LITERAL_PROBS << (lc + lp)));
    this.resetState();
  }

  /** Forgets what was learnt. */
  resetState(): void {
    this.#probs.fill(PROB_INIT);
    this.#state = 0;
    this.#rep0 = this.#rep1 = this.#rep2 = this.#rep3 = 0;
  }

  /** Copies bytes that are not compressed. @throws LzmaError */
  copy(start: number, length: number): void {
    if (length > this.output.length - this.position) throw new LzmaError('it is larger than announced');
    this.output.set(this.#input.subarray(start, start + length), this.position);
    this.position += length;
  }

  /** Starts the range coder on [start, end) of the input. @throws LzmaError */
  start(start: number, end: number): void {
    if (end - start < 5 || end > this.#input.length) throw new LzmaError('it ends inside a chunk');
    if (this.#input[start] !== 0) throw new LzmaError('a chunk does not begin with 0');
    this.#at = start + 1;
    this.#end = end;
    this.#code = 0;
    for (let i = 0; i < 4; i++) this.#code = (this.#code << 8) | this.#input[this.#at++];
    this.#code >>>= 0;
    this.#range = 0xffffffff;
  }

  /** Fails unless all input was used and the coder is where an encoder ends. @throws LzmaError */
  finish(): void {
    if (this.#at !== this.#end || this.#code !== 0) throw new LzmaError('a chunk is damaged');
  }

  /**
   * Decodes until `limit` bytes of the output are filled.
   * @param allowEndMarker the data may end earlier, with a marker
   * @returns false when it ended with the marker
   * @throws LzmaError
   */
  decode(limit: number, allowEndMarker = false): boolean {
    if (limit > this.output.length) throw new LzmaError('it is larger than announced');
    const { output } = this;
    while (this.position < limit) {
      const posState = (this.position - this.dictionaryStart) & this.#posMask;
      const stateIndex = this.#state * POS_STATES_MAX + posState;
      if (this.#bit(IS_MATCH + stateIndex) === 0) {
        this.#literal();
        continue;
      }
      let length: number;
      if (this.#bit(IS_REP + this.#state) === 0) {
        this.#rep3 = this.#rep2;
        this.#rep2 = this.#rep1;
        this.#rep1 = this.#rep0;
        length = this.#length(MATCH_LEN, posState);
        this.#state = this.#state < FIRST_MATCH_STATE ? 7 : 10;
        this.#rep0 = this.#distance(length);
        if (this.#rep0 === END_MARKER) {
          if (!allowEndMarker) throw new LzmaError('it ends too early');
          this.#normalize();
          return false;
        }
      } else {
        if (this.#bit(IS_REP0 + this.#state) === 0) {
          if (this.#bit(IS_REP0_LONG + stateIndex) === 0) {
            this.#state = this.#state < FIRST_MATCH_STATE ? 9 : 11;
            this.#checkDistance();
            output[this.position] = output[this.position - this.#rep0 - 1];
            this.position++;
            continue;
          }
        } else {
          this.#rotateRepetitions();
        }
        length = this.#length(REP_LEN, posState);
        this.#state = this.#state < FIRST_MATCH_STATE ? 8 : 11;
      }
      this.#checkDistance();
      this.#copyMatch(length, limit);
    }
    this.#normalize();
    return true;
  }

  #rotateRepetitions(): void {
    let distance: number;
    if (this.#bit(IS_REP1 + this.#state) === 0) {
      distance = this.#rep1;
    } else {
      if (this.#bit(IS_REP2 + this.#state) === 0) {
        distance = this.#rep2;
      } else {
        distance = this.#rep3;
        this.#rep3 = this.#rep2;
      }
      this.#rep2 = this.#rep1;
    }
    this.#rep1 = this.#rep0;
    this.#rep0 = distance;
  }

  #checkDistance(): void {
    if (this.#rep0 >= this.position - this.dictionaryStart) {
      throw new LzmaError('a match starts before the data');
    }
  }

  #copyMatch(length: number, limit: number): void {
    if (length > limit - this.position) throw new LzmaError('a chunk is larger than announced');
    const { output } = this;
    let to = this.position;
    let from = to - this.#rep0 - 1;
    const end = to + length;
    // The match may overlap what it produces, so bytes are copied one by one.
    while (to < end) output[to++] = output[from++];
    this.position = end;
  }

  #literal(): void {
    const { output } = this;
    const probs = this.#probs;
    const position = this.position;
    const previous = position > this.dictionaryStart ? output[position - 1] : 0;
    const literalPos = (position - this.dictionaryStart) & this.#literalPosMask;
    const context = (literalPos << this.#lc) + (previous >> (8 - this.#lc));
    const base = LITERAL + LITERAL_PROBS * context;
    let symbol = 1;
    if (this.#state >= FIRST_MATCH_STATE) {
      // After a match the byte that would have continued it is part of the context, as long as it is right.
      this.#checkDistance();
      let matchByte = output[position - this.#rep0 - 1] << 1;
      let offset = 0x100;
      do {
        const matchBit = matchByte & offset;
        const bit = this.#bit(base + offset + matchBit + symbol);
        symbol = (symbol << 1) | bit;
        offset &= bit === 0 ? ~matchBit : matchBit;
        matchByte <<= 1;
      } while (symbol < 0x100);
    } else {
      // The bit decoder, written out: this loop is where the time goes.
      let range = this.#range;
      let code = this.#code;
      do {
        if (range < TOP_VALUE) {
          range = (range << 8) >>> 0;
          code = ((code << 8) | this.#nextByte()) >>> 0;
        }
        const prob = probs[base + symbol];
        const bound = (range >>> PROB_BITS) * prob;
        if (code < bound) {
          range = bound;
          probs[base + symbol] = prob + (((1 << PROB_BITS) - prob) >> MOVE_BITS);
          symbol <<= 1;
        } else {
          range -= bound;
          code -= bound;
          probs[base + symbol] = prob - (prob >> MOVE_BITS);
          symbol = (symbol << 1) | 1;
        }
      } while (symbol < 0x100);
      this.#range = range;
      this.#code = code;
    }
    output[position] = symbol;
    this.position = position + 1;
    this.#state = this.#state < 4 ? 0 : this.#state < 10 ? this.#state - 3 : this.#state - 6;
  }

  #length(base: number, posState: number): number {
    if (this.#bit(base + LEN_CHOICE) === 0) {
      return MATCH_MIN + this.#tree(base + LEN_LOW + posState * 8, 3);
    }
    if (this.#bit(base + LEN_CHOICE2) === 0) {
      return MATCH_MIN + 8 + this.#tree(base + LEN_MID + posState * 8, 3);
    }
    return MATCH_MIN + 16 + this.#tree(base + LEN_HIGH, 8);
  }

  #distance(length: number): number {
    const lengthState = Math.min(length - MATCH_MIN, DIST_STATES - 1);
    const slot = this.#tree(DIST_SLOT + lengthState * DIST_SLOTS, 6);
    if (slot < 4) return slot;
    const bits = (slot >> 1) - 1;
    const high = ((2 | (slot & 1)) << bits) >>> 0;
    if (slot < DIST_MODEL_END) {
      return high + this.#reverseTree(DIST_SPECIAL + high - slot, bits);
    }
    const middle = this.#directBits(bits - ALIGN_BITS);
    return (high + ((middle << ALIGN_BITS) >>> 0) + this.#reverseTree(DIST_ALIGN, ALIGN_BITS)) >>> 0;
  }

  #tree(base: number, bits: number): number {
    let symbol = 1;
    for (let i = 0; i < bits; i++) symbol = (symbol << 1) | this.#bit(base + symbol);
    return symbol - (1 << bits);
  }

  #reverseTree(base: number, bits: number): number {
    let symbol = 1;
    let value = 0;
    for (let i = 0; i < bits; i++) {
      const bit = this.#bit(base + symbol);
      symbol = (symbol << 1) | bit;
      value |= bit << i;
    }
    return value;
  }

  #directBits(count: number): number {
    let value = 0;
    for (let i = 0; i < count; i++) {
      this.#normalize();
      this.#range >>>= 1;
      const one = this.#code >= this.#range;
      if (one) this.#code -= this.#range;
      value = (value << 1) | (one ? 1 : 0);
    }
    return value;
  }

  #bit(index: number): 0 | 1 {
    if (this.#range < TOP_VALUE) this.#normalize();
    const probs = this.#probs;
    const prob = probs[index];
    const bound = (this.#range >>> PROB_BITS) * prob;
    if (this.#code < bound) {
      this.#range = bound;
      probs[index] = prob + (((1 << PROB_BITS) - prob) >> MOVE_BITS);
      return 0;
    }
    this.#range -= bound;
    this.#code -= bound;
    probs[index] = prob - (prob >> MOVE_BITS);
    return 1;
  }

  #normalize(): void {
    if (this.#range >= TOP_VALUE) return;
    this.#range = (this.#range << 8) >>> 0;
    this.#code = ((this.#code << 8) | this.#nextByte()) >>> 0;
  }

  #nextByte(): number {
    if (this.#at >= this.#end) throw new LzmaError('it ends inside a chunk');
    return this.#input[this.#at++];
  }
}
