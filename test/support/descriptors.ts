/** File descriptors of this process. */
import { readdirSync, readlinkSync } from 'node:fs';

/** How many eventfds there are, those of Node's event loops included. */
export function countEventfds(): number {
  const target = (fd: string) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      // The directory itself was open for reading.
      return '';
    }
  };
  return readdirSync('/proc/self/fd').filter((fd) => target(fd) === 'anon_inode:[eventfd]').length;
}
