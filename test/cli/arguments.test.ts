/** How values on the command line are read. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseAdd } from '../../src/cli/commands/initramfs-build.ts';
import { formatLine } from '../../src/cli/log.ts';
import { asTsvError, errorToJson, formatError } from '../../src/cli/report-error.ts';
import { parseModule, planRun } from '../../src/cli/run-options.ts';
import { parseTarget } from '../../src/cli/targets/target.ts';
import { parseTrace } from '../../src/cli/trace-output.ts';
import { unknownCommand, usageError } from '../../src/cli/usage.ts';
import { TsvError } from '../../src/errors.ts';

describe('--module', () => {
  it('is a file, or a file and its command line', () => {
    expect(parseModule('a.ko')).toEqual({ file: 'a.ko' });
    expect(parseModule('a.ko,one two')).toEqual({ file: 'a.ko', cmdline: 'one two' });
    expect(parseModule('a,,b,c,d')).toEqual({ file: 'a,b', cmdline: 'c,d' });
    expect(() => parseModule(',x')).toThrow(TsvError);
  });

  it('can name any file and give it any command line', () => {
    const name = fc.string({ minLength: 1 });
    fc.assert(
      fc.property(name, fc.string(), (file, cmdline) => {
        // A command line that starts with a comma cannot be told from a doubled one.
        fc.pre(!cmdline.startsWith(','));
        expect(parseModule(`${file.replaceAll(',', ',,')},${cmdline}`)).toEqual({ file, cmdline });
      }),
    );
  });
});

describe('--add', () => {
  it('is a host file and where it goes', () => {
    expect(parseAdd('/etc/hosts')).toEqual({ source: '/etc/hosts', path: '/hosts' });
    expect(parseAdd('data:/srv/data')).toEqual({ source: 'data', path: '/srv/data' });
    expect(() => parseAdd(':x')).toThrow(TsvError);
    expect(() => parseAdd('x:')).toThrow(TsvError);
  });
});

describe('--serial', () => {
  it('knows its targets', () => {
    expect(parseTarget('stdio', 'serial')).toEqual({ kind: 'stdio' });
    expect(parseTarget('pty', 'serial')).toEqual({ kind: 'pty' });
    expect(parseTarget('file:a:b', 'serial')).toEqual({ kind: 'file', path: 'a:b' });
    expect(parseTarget('socket:/x', 'serial')).toEqual({ kind: 'socket', path: '/x' });
  });

  it('refuses everything else', () => {
    for (const text of ['', 'file', 'file:', 'socket:', 'stdio:x', 'none:', 'tcp:1']) {
      expect(() => parseTarget(text, 'serial'), text).toThrow(TsvError);
    }
  });
});

describe('--trace', () => {
  it('is a list without repetitions', () => {
    expect(parseTrace('io,exits, io')).toEqual(['io', 'exits']);
    expect(() => parseTrace('')).toThrow(TsvError);
  });
});

describe('planRun', () => {
  it('passes what was given and leaves defaults to the machine', () => {
    const plan = planRun({
      kernel: 'k',
      initrd: 'i',
      append: 'a',
      cpus: '2',
      pin: '3,4',
      timeout: '1.5',
      module: ['m,x'],
    });

    expect(plan.timeout).toBe(1500);
    expect(plan.config).toMatchObject({
      cpus: 2,
      affinity: [[3], [4]],
      boot: { kernel: 'k', initrd: 'i', cmdline: 'a', modules: [{ file: 'm', cmdline: 'x' }] },
    });
    expect(plan.config.cpu).toBeUndefined();
  });

  it('reads addresses in hexadecimal', () => {
    const plan = planRun({ flat: 'f', flatAddress: '0x7C00', flatMode: 'real', flatEntry: '31745' });

    expect(plan.config.boot).toEqual({ flat: 'f', address: 0x7c00, mode: 'real', entry: 31745 });
  });

  it('never throws anything but usage errors, whatever the texts', () => {
    const text = fc.option(fc.string(), { nil: undefined });
    const args = fc.record({
      flat: text,
      kernel: text,
      cpus: text,
      pin: text,
      timeout: text,
      timeScale: text,
      serial: text,
      trace: text,
    });
    fc.assert(
      fc.property(args, (given) => {
        try {
          planRun(given);
        } catch (error) {
          expect(error).toBeInstanceOf(TsvError);
          expect((error as TsvError).exitStatus).toBe(2);
          expect((error as TsvError).hint).not.toBe('');
        }
      }),
    );
  });
});

describe('usage errors', () => {
  const context = {
    options: ['kernel', 'cpus', 'mem-backend'],
    command: 'tsvisor run',
    args: ['--kernal', 'x'],
  };

  it('name the nearest option', () => {
    const error = usageError('Unknown argument: kernal', context);

    expect(error.message).toBe('Unknown option: --kernal.');
    expect(error.hint).toContain('Did you mean --kernel?');
  });

  it('name an option once that yargs names twice', () => {
    const args = ['--mem-backand=x'];
    const error = usageError('Unknown arguments: mem-backand, memBackand', { ...context, args });

    expect(error.message).toBe('Unknown option: --mem-backand.');
    expect(error.hint).toContain('--mem-backend');
  });

  it('tell words from options', () => {
    expect(usageError('Unknown argument: x', context).message).toContain('"x"');
  });

  it('name the nearest command', () => {
    expect(unknownCommand('fetsch', ['fetch', 'list'], 'tsvisor kernel').hint).toContain(
      'Did you mean "fetch"?',
    );
  });
});

describe('errors', () => {
  it('are code, message and hint on two lines', () => {
    const error = new TsvError('TSV_E_FILE', 'It is gone.', { hint: 'Look for it.' });

    expect(formatError(error)).toBe('tsvisor: TSV_E_FILE: It is gone.\n  Look for it.');
    expect(errorToJson(error)).toEqual({ code: 'TSV_E_FILE', message: 'It is gone.', hint: 'Look for it.' });
  });

  it('that are none of ours are defects of ours', () => {
    expect(asTsvError(new RangeError('boom'))).toMatchObject({ code: 'TSV_E_INTERNAL', message: 'boom' });
    expect(asTsvError('text')).toMatchObject({ code: 'TSV_E_INTERNAL', message: 'text' });
  });
});

describe('log lines', () => {
  it('are text with the fields behind the message', () => {
    expect(formatLine('{"level":40,"time":1,"msg":"slow","device":"com1"}')).toBe(
      'tsvisor: warn: slow device="com1"\n',
    );
  });
});
