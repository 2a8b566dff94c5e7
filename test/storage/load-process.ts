/**
 * A process that writes to a disk until it is killed, and says which rounds were flushed.
 * Arguments: path, seed, and after how many calls of the host's file it kills itself.
 */
import { writeSync } from 'node:fs';
import { ImageFile } from '../../src/storage/file.ts';
import { openDisk } from '../../src/storage/open.ts';
import { load, stamp } from './load.ts';

const [path, seed, calls] = process.argv.slice(2);
let left = Number(calls);

/** Kills the process while the call is under way. */
function count(): void {
  if (--left === 0) process.kill(process.pid, 'SIGKILL');
}

const { write, sync } = ImageFile.prototype;
ImageFile.prototype.write = function (offset, from) {
  const done = write.call(this, offset, from);
  count();
  return done;
};
ImageFile.prototype.sync = function () {
  const done = sync.call(this);
  count();
  return done;
};

const disk = await openDisk(path, { backing: 'any' });
let number = 0;
for (const round of load(Number(seed), disk.size / 512)) {
  await Promise.all(
    round.map(({ kind, sector, sectors }) => {
      const [offset, length] = [sector * 512, sectors * 512];
      if (kind === 'discard') return disk.discard!(offset, length);
      if (kind === 'zero') return disk.writeZeroes!(offset, length, true);
      return disk.write(
        offset,
        Array.from({ length: sectors }, (_, i) => stamp(number, sector + i)),
      );
    }),
  );
  await disk.flush();
  writeSync(1, `${number}\n`);
  number++;
}
