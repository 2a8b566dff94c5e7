/** Lengths of instructions against the disassembler of the host's binutils, on a program of the host. */
import { execFileSync } from 'node:child_process';
import { realpathSync } from 'node:fs';
import { expect, test } from 'vitest';
import { Decoder } from '../../../src/tcg/decode/decoder.ts';
import { INSTRUCTIONS } from '../../../src/tcg/table/index.ts';

/** What the CPU does not have: AVX and newer. */
const FOREIGN =
  /^(v|k(add|and|mov|not|or|test|unpck|x)|[a-z]+ .*%(ymm|zmm|k)\d|(bad)|\.byte|endbr|tpause|umwait|umonitor|rdssp|xbegin|xend|xtest|xabort|prefetchw?t?1?|notrack)/;
const PREFIX_ONLY = /^(rex|data16|cs|ds|es|ss|fs|gs|lock|repz|repnz|addr32|rep)\S*\s*$/;
/** Instructions that are not implemented: they are #UD, whatever their length. */
const MISSING =
  /^(gf2p8|xsavec|xsaves|xrstors|cldemote|movdir|enqcmd|ptwrite|wrpkru|rdpkru|serialize|hreset|rdpmc|vmcall|xresldtrk|xsusldtrk|fxsave64|extrq|insertq|movnts|incssp|saveprevssp|rstorssp|setssbsy|clrssbsy|wrss|wruss|monitor|mwait)/;

/** Address, bytes and text of each instruction. */
function disassemble(file: string): { bytes: Uint8Array; text: string }[] {
  const out = execFileSync('objdump', ['-d', '-w', '-z', '--section=.text', file], {
    maxBuffer: 1 << 30,
    encoding: 'latin1',
  });
  return out.split('\n').flatMap((line) => {
    const match = /^\s*[0-9a-f]+:\t((?:[0-9a-f]{2} )+)\s*\t?(.*)$/.exec(line);
    return match === null
      ? []
      : [{ bytes: Uint8Array.from(Buffer.from(match[1].replaceAll(' ', ''), 'hex')), text: match[2].trim() }];
  });
}

test('the decoder finds the lengths that objdump finds', { timeout: 120_000 }, () => {
  const decoder = new Decoder(INSTRUCTIONS, () => true);
  const wrong: string[] = [];
  let checked = 0;
  const file = process.env.TSV_TCG_BINARY ?? realpathSync('/bin/bash');
  for (const { bytes, text } of disassemble(file)) {
    if (
      FOREIGN.test(text) ||
      MISSING.test(text) ||
      PREFIX_ONLY.test(text) ||
      /\(bad\)|%(ymm|zmm|k)\d/.test(text)
    )
      continue;
    const padded = new Uint8Array(16);
    padded.set(bytes);
    const length = decoder.decode(padded, 0, 16, 64);
    checked++;
    if (length !== bytes.length) wrong.push(`${Buffer.from(bytes).toString('hex')} ${text}: ${length}`);
  }
  expect(checked).toBeGreaterThan(10_000);
  expect([...new Set(wrong)].slice(0, 50)).toEqual([]);
});
