import { expect, it } from 'vitest';
import { LIMIT, runGuest, SECTIONS, sections } from './guest.ts';
import { Programs } from './programs.ts';

/** What is hashed, MiB. */
const HASHED = 64;
/** What is packed and unpacked, MiB: that takes a minute or two for 64. `TSV_TCG_MIB` for more. */
const PACKED = Number(process.env.TSV_TCG_MIB ?? 16);

it(
  `hashes ${HASHED} MiB, packs and unpacks ${PACKED} MiB without a wrong bit`,
  async () => {
    using programs = new Programs().compile('noise');

    const { console } = await runGuest({
      script: `${SECTIONS}
        section hashed; noise ${HASHED} | sha256sum; end
        section packed; noise ${PACKED} | gzip -1 | gunzip | sha256sum; end`,
      initramfs: { files: programs.files },
    });

    const { hashed, packed } = sections(console);
    expect(hashed).toBe(`${programs.sumOnHost('noise', `${HASHED}`)}\nstatus 0`);
    expect(packed).toBe(`${programs.sumOnHost('noise', `${PACKED}`)}\nstatus 0`);
  },
  LIMIT + 60_000,
);
