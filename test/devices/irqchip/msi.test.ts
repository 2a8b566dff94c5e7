import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { InterruptMessage } from '../../../src/devices/irqchip/apic-bus.ts';
import { decodeMsi, encodeMsi } from '../../../src/devices/irqchip/msi.ts';

it('says the same as the message it encodes', () => {
  const message: fc.Arbitrary<InterruptMessage> = fc.record({
    destination: fc.nat(0xff),
    destinationMode: fc.constantFrom('physical', 'logical'),
    deliveryMode: fc.nat(7),
    vector: fc.nat(0xff),
    triggerMode: fc.constantFrom('edge', 'level'),
  });
  fc.assert(
    fc.property(message, (each) => {
      expect(decodeMsi(encodeMsi(each))).toEqual(each);
    }),
  );
});

it('is what devices write', () => {
  const message = decodeMsi({ address: 0xfee0_3000, data: 0x4022 });
  expect(message).toEqual({
    destination: 3,
    destinationMode: 'physical',
    deliveryMode: 0,
    vector: 0x22,
    triggerMode: 'edge',
  });
});

it('is none at another address or as a level that is not asserted', () => {
  expect([
    decodeMsi({ address: 0xfec0_0000, data: 0x22 }),
    decodeMsi({ address: 0xfee0_0000, data: 0x8022 }),
  ]).toEqual([undefined, undefined]);
});

it('decodes any address and data to a message in range', () => {
  fc.assert(
    fc.property(fc.nat(2 ** 52), fc.nat(0xffff_ffff), (address, data) => {
      const message = decodeMsi({
        address: address - (address % 2 ** 32) + 0xfee0_0000 + (address % 2 ** 20),
        data,
      });
      if (message === undefined) return (data & 0xc000) === 0x8000;
      return message.destination <= 0xff && message.vector <= 0xff && message.deliveryMode <= 7;
    }),
  );
});
