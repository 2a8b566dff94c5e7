/**
 * The interrupt controllers outside of the processors, where the engine leaves them to the machine (`irqchip: 'split'`):
 * our I/O APIC and PICs as devices, whose messages go to the engine's local APICs.
 */
import { InterruptRouter } from '../devices/irqchip/interrupt-router.ts';
import { encodeMsi } from '../devices/irqchip/msi.ts';
import type { EngineVm } from '../vcpu/engine.ts';

/**
 * Controllers in front of an engine's local APICs.
 * @param onPicInterrupt told once when the guest lets the PIC interrupt it and the engine has no way to take that
 */
export function splitControllers(engine: EngineVm, onPicInterrupt: () => void): InterruptRouter {
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
        onPicInterrupt();
      },
    },
    { onRoute: (pin, message) => engine.routePin(pin, encodeMsi(message)) },
  );
}
