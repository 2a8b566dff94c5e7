/** Two vCPUs in 64-bit mode share memory and talk to one MMIO device. */
import { type Device, Vm } from 'tsvisor';

/** Hands out numbers: a read of its 32-bit register takes the next one. */
class TicketMachine implements Device {
  readonly name = 'tickets';
  issued = 0;
  read() {
    return ++this.issued;
  }
  save() {
    return { issued: this.issued };
  }
  restore(state: { issued?: unknown }) {
    this.issued = Number(state.issued);
  }
}

// Each vCPU takes 100 tickets and adds them to a sum in memory; RDI holds the vCPU's number.
const code = [
  ...[0xb9, 100, 0, 0, 0], //                     mov ecx, 100
  ...[0xbb, 0x00, 0x00, 0x00, 0xd0], //           mov ebx, 0xd0000000
  ...[0x8b, 0x03], //                      again: mov eax, [rbx]
  ...[0xf0, 0x01, 0x04, 0x25, 0, 0x40, 0, 0], //  lock add [0x4000], eax
  ...[0xff, 0xc9], //                             dec ecx
  ...[0x75, 0xf2], //                             jnz again
  0xf4, //                                        hlt
];

await using vm = await Vm.create({
  memory: '4M',
  cpus: 2,
  board: 'none',
  boot: { flat: Uint8Array.from(code), mode: 'long64', startAll: true },
});
const tickets = new TicketMachine();
vm.addDevice(tickets, { mmio: [{ base: 0xd0000000, size: 4 }] });
vm.start();
await vm.exited;
console.log(`${tickets.issued} tickets, sum ${vm.memory.readU32(0x4000)}`);
