/** The date as the MC146818A's registers hold it: BCD or binary, 12 or 24 hours. */

/** What register B says about the format. */
export interface RtcFormat {
  /** False: binary-coded decimal. */
  readonly binary: boolean;
  /** False: 1 to 12 with bit 7 for PM. */
  readonly hours24: boolean;
}

const PM = 0x80;
/** An alarm byte with both top bits set matches anything. */
const DONT_CARE = 0xc0;
const SECONDS_PER_DAY = 86400;

/**
 * @param time ms since 1970-01-01
 * @returns second, minute, hour, day of the week (Sunday is 1), day, month, year of the century, century
 */
export function toRegisters(time: number, format: RtcFormat): number[] {
  const date = new Date(time);
  const encode = (value: number) => (format.binary ? value & 0xff : toBcd(value));
  const hour = date.getUTCHours();
  const year = Math.max(0, date.getUTCFullYear());
  return [
    encode(date.getUTCSeconds()),
    encode(date.getUTCMinutes()),
    format.hours24 ? encode(hour) : encode(hour % 12 || 12) | (hour >= 12 ? PM : 0),
    encode(date.getUTCDay() + 1),
    encode(date.getUTCDate()),
    encode(date.getUTCMonth() + 1),
    encode(year % 100),
    encode(Math.floor(year / 100) % 100),
  ];
}

/**
 * The inverse of {@link toRegisters}; the day of the week is not looked at. Values out of range carry over into the
 * next larger unit, so that any bytes give a date.
 * @returns seconds since 1970-01-01
 */
export function fromRegisters(registers: readonly number[], format: RtcFormat): number {
  const [second, minute, , , day, month, year, century] = registers.map((value) => decode(value, format));
  const hour = decodeHour(registers[2], format);
  const date = new Date(0);
  // Not Date.UTC, which takes years below 100 for 19xx.
  date.setUTCFullYear(century * 100 + year, month - 1, day);
  date.setUTCHours(hour, minute, second);
  return date.getTime() / 1000;
}

/**
 * True when the alarm matches a second after `from`, up to and with `to` (seconds since 1970-01-01).
 * @param alarm the second, minute and hour alarm registers
 */
export function alarmInRange(alarm: readonly number[], format: RtcFormat, from: number, to: number): boolean {
  const wanted = alarm.map((value, i) => {
    if ((value & DONT_CARE) === DONT_CARE) return -1;
    return i === 2 ? decodeHour(value, format) : decode(value, format);
  });
  const matches = (second: number) => {
    const inDay = ((second % SECONDS_PER_DAY) + SECONDS_PER_DAY) % SECONDS_PER_DAY;
    const fields = [inDay % 60, Math.floor(inDay / 60) % 60, Math.floor(inDay / 3600)];
    return wanted.every((value, i) => value < 0 || value === fields[i]);
  };
  // Within a day everything that can match does.
  for (let second = Math.max(from, to - SECONDS_PER_DAY) + 1; second <= to; second++) {
    if (matches(second)) return true;
  }
  return false;
}

function decode(value: number, format: RtcFormat): number {
  return format.binary ? value : (value >> 4) * 10 + (value & 0x0f);
}

function decodeHour(value: number, format: RtcFormat): number {
  if (format.hours24) return decode(value, format);
  return (decode(value & ~PM, format) % 12) + (value & PM ? 12 : 0);
}

function toBcd(value: number): number {
  return (Math.floor(value / 10) << 4) | (value % 10);
}
