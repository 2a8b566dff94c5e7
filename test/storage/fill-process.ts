/** A process that writes until the host has no room, and says what it was told. Arguments: path, length of a write. */
import { TsvError } from '../../src/errors.ts';
import { openDisk } from '../../src/storage/open.ts';
import { stamp } from './load.ts';

const [path, length] = process.argv.slice(2);
const disk = await openDisk(path);
const sectors = Number(length) / 512;
let written = 0;
let error: unknown;
for (; error === undefined && written < disk.size / 512; ) {
  const from = Array.from({ length: sectors }, (_, i) => stamp(0, written + i));
  try {
    await disk.write(written * 512, from);
    await disk.flush();
    written += sectors;
  } catch (failure) {
    error = failure;
  }
}
// What is there already can still be read and flushed.
const bytes = Buffer.alloc(written * 512);
await disk.read(0, [bytes]);
const close = await Promise.resolve(disk[Symbol.asyncDispose]()).then(
  () => 'closed',
  (failure: TsvError) => failure.code,
);
const code = error instanceof TsvError ? error.code : String(error);
console.log(JSON.stringify({ written, code, close }));
