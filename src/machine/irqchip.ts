/** The interrupt controllers outside of the processors that are devices of the machine, and its virtual clock. */
import type { Logger } from 'pino';
import type { Mount } from '../devices/bus.ts';
import type { Device } from '../devices/device.ts';
import type { GuestClock } from '../devices/guest-clock.ts';
import { InterruptRouter } from '../devices/irqchip/interrupt-router.ts';
import { encodeMsi } from '../devices/irqchip/msi.ts';
import type { EngineVm } from '../vcpu/engine.ts';
import type { ResolvedConfig } from './config.ts';
import type { DeviceSet } from './device-set.ts';

/**
 * Adds the controllers that the engine wants on the bus, or with `irqchip: 'split'` the PC board's own.
 * @returns the latter
 */
export function addControllers(
  { board, irqchip }: ResolvedConfig,
  engine: EngineVm,
  devices: DeviceSet,
  log: Logger,
): InterruptRouter | undefined {
  const router = board === 'pc' && irqchip === 'split' ? splitControllers(engine, log) : undefined;
  const parts = router?.mounts ?? engine.busDevices();
  for (const device of new Set(parts.map((part) => part.device))) {
    const mounts = parts.flatMap((part) => (part.device === device ? [part.mount] : []));
    const within = (space: Mount['space']) => mounts.filter((mount) => mount.space === space);
    devices.add(device, { pio: within('pio'), mmio: within('mmio') });
  }
  return router;
}

/** Our I/O APIC and PICs in front of an engine's local APICs. */
function splitControllers(engine: EngineVm, log: Logger): InterruptRouter {
  let told = false;
  return new InterruptRouter(
    {
      deliver(message) {
        engine.signalMsi(encodeMsi(message));
        return true;
      },
      setIntr(level) {
        if (engine.setPicOutput(level ? 1 : 0) || told || !level) return;
        told = true;
        log.warn(
          'the guest waits for interrupts of the 8259, which do not reach it under kvm with a split irqchip',
        );
      },
    },
    { onRoute: (pin, message) => engine.routePin(pin, encodeMsi(message)) },
  );
}

/** Where the vCPU of a machine with a virtual clock says that a device's timer is due. */
export function tickDevice(clock: GuestClock): Device {
  return { name: 'virtual clock', write: () => clock.tick(), save: () => ({}), restore: () => {} };
}
