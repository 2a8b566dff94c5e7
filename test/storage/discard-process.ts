/** A process that has no addon: discards, zeroes and flushes. Argument: path. */
import { openDisk } from '../../src/storage/open.ts';

const warnings: string[] = [];
const disk = await openDisk(process.argv[2], { warn: (message) => warnings.push(message) });
await disk.write(0, [Buffer.alloc(1 << 18, 1)]);
await disk.discard!(0, 1 << 16);
await disk.writeZeroes!(1 << 16, 1 << 16, true);
await disk.flush();
const bytes = Buffer.alloc(1 << 18);
await disk.read(0, [bytes]);
await disk[Symbol.asyncDispose]();
const zeroed = bytes.subarray(1 << 16, 1 << 17).every((byte) => byte === 0) && bytes[1 << 17] === 1;
console.log(JSON.stringify({ warnings, zeroed }));
