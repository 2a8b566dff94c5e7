/** Writes a machine's trace, which arrives on a diagnostics channel, to stderr or a file. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { closeSync } from 'node:fs';
import { TsvError } from '../errors.ts';
import { TCG_TOPICS, type TraceTopic } from '../vcpu/protocol.ts';
import { FdWriter } from './fd-writer.ts';
import { openOutput } from './open-output.ts';

const CHANNEL = 'tsvisor:trace';
const TOPICS: readonly TraceTopic[] = ['exits', 'io', 'mmio', 'assist', ...TCG_TOPICS];

/**
 * Reads a `--trace` value: topics separated by commas.
 * @throws TSV_E_USAGE
 */
export function parseTrace(text: string): TraceTopic[] {
  const topics = new Set<TraceTopic>();
  for (const word of text.split(',').map((part) => part.trim())) {
    const topic = TOPICS.find((known) => known === word);
    if (topic === undefined) {
      throw new TsvError('TSV_E_USAGE', `"${word}" is nothing that can be traced.`, {
        hint: `Choose from ${TOPICS.join(', ')}, separated by commas.`,
      });
    }
    topics.add(topic);
  }
  return [...topics];
}

/** An open trace output. */
export interface TraceOutput {
  flush(): Promise<void>;
  close(): void;
}

/**
 * Sends the traces of this process's machines to a file, or to stderr.
 * @throws TSV_E_FILE
 */
export function openTrace(
  file: string | undefined,
  onError: (error: NodeJS.ErrnoException) => void,
): TraceOutput {
  const fd = file === undefined ? 2 : openOutput(file, 'trace');
  const writer = new FdWriter(fd, onError);
  const listener = (message: unknown): void => {
    const { lines } = message as { lines: string[] };
    void writer.write(Buffer.from(`${lines.join('\n')}\n`));
  };
  subscribe(CHANNEL, listener);
  return {
    flush: () => writer.flush(),
    close() {
      unsubscribe(CHANNEL, listener);
      writer.close();
      if (fd !== 2) closeSync(fd);
    },
  };
}
