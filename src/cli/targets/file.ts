/** A console whose output goes to a file, and which has no input. */
import { closeSync } from 'node:fs';
import { FdWriter } from '../fd-writer.ts';
import { openOutput } from '../open-output.ts';
import type { Target, TargetEvents } from './target.ts';

/** @throws TSV_E_FILE */
export function openFile(path: string, label: string, events: TargetEvents): Target {
  const fd = openOutput(path, `output of the ${label}`);
  const writer = new FdWriter(fd, events.onError);
  return {
    get busy() {
      return writer.busy;
    },
    write: (bytes) => writer.write(bytes),
    flush: () => writer.flush(),
    hurry: () => writer.hurry(),
    close() {
      writer.close();
      closeSync(fd);
    },
  };
}
