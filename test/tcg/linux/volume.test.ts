import { expect, it } from 'vitest';
import { LIMIT, runGuest, SECTIONS, sections } from './guest.ts';
import { Programs } from './programs.ts';

it(
  'hashes, packs and unpacks 64 MiB without a wrong bit',
  async () => {
    using programs = new Programs().compile('noise');
    const sum = programs.sumOnHost('noise', '64');

    const { console } = await runGuest({
      script: `${SECTIONS}
        section hash; noise 64 | sha256sum; end
        section packed; noise 64 | gzip -1 | gunzip | sha256sum; end`,
      initramfs: { files: programs.files },
    });

    const { hash, packed } = sections(console);
    expect(hash).toBe(`${sum}\nstatus 0`);
    expect(packed).toBe(`${sum}\nstatus 0`);
  },
  LIMIT + 60_000,
);
