import { describe, expect, it } from 'vitest';
import { VirtioRng } from '../../../src/devices/virtio/rng/rng.ts';
import { resolveConfig, type VmConfig } from '../../../src/machine/config.ts';
import { virtioCmdline, virtioPlaces } from '../../../src/machine/virtio.ts';

const config = (count: number, more: Partial<VmConfig> = {}) =>
  resolveConfig({
    boot: { kernel: 'vmlinux' },
    virtio: Array.from({ length: count }, (_, i) => new VirtioRng({ name: `rng${i}` })),
    ...more,
  });

describe('virtio devices on the board', () => {
  it('have registers and an interrupt each over MMIO', () => {
    const { virtioMmio = [] } = virtioPlaces(config(12, { rng: true }));
    expect(virtioMmio.length).toBe(13);
    expect(new Set(virtioMmio.map(({ address }) => address)).size).toBe(13);
    expect(new Set(virtioMmio.map(({ gsi }) => gsi)).size).toBe(13);
    // Those of the timer, keyboard, serial port, clock and ACPI, and those of the PCI slots.
    for (const { gsi } of virtioMmio) expect([0, 1, 2, 4, 8, 9, 13, 20, 21, 22, 23]).not.toContain(gsi);
  });

  it('have slots over PCI, whose pins take turns', () => {
    const { virtioMmio, pci } = virtioPlaces(config(6, { transport: 'pci' }));
    expect(virtioMmio).toBeUndefined();
    expect(pci?.routes?.map(({ slot, gsi }) => [slot, gsi])).toEqual([
      [1, 20],
      [2, 21],
      [3, 22],
      [4, 23],
      [5, 20],
      [6, 21],
    ]);
  });

  it.each([
    ['mmio', 14],
    ['pci', 32],
  ] as const)('over %s are fewer than %i', (transport, count) => {
    expect(() => virtioPlaces(config(count, { transport }))).toThrow(
      expect.objectContaining({ code: 'TSV_E_CONFIG' }),
    );
  });

  it('are told to kernels that run without ACPI, and only to them', () => {
    expect(virtioCmdline('quiet acpi=off', config(2))).toBe(
      'quiet acpi=off virtio_mmio.device=512@0xe8000000:5 virtio_mmio.device=512@0xe8001000:10',
    );
    expect(virtioCmdline('quiet', config(2))).toBe('quiet');
    expect(virtioCmdline(undefined, config(2))).toBeUndefined();
    expect(virtioCmdline('acpi=off', config(2, { transport: 'pci' }))).toBe('acpi=off');
  });
});
