/** What the scripts of an initramfs do about consoles whose drivers are modules. */

/**
 * Shell commands that move the script to the console that the kernel command line names last. The kernel could not open
 * it before its driver was loaded, and it may come a moment after its driver: a virtio console with several ports is
 * told about them by messages (virtio 1.2 section 5.3.6). Its node in /dev is there before it can be opened, so the
 * kernel's list of consoles is looked at. It is opened once and stays open, or what was typed early would
 * be lost when it is closed; without `command` a console that cannot be opened would end the script.
 */
export const OPEN_CONSOLE = `console=
set -f
for word in $(cat /proc/cmdline); do
  case $word in console=*) word=\${word#console=} console=\${word%%,*} ;; esac
done
set +f
case $console in
  hvc*)
    for look in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
      case " $(cat /sys/class/tty/console/active) " in *" $console "*) break ;; esac
      sleep 0.1
    done
    ;;
esac
command exec 3<>/dev/console && exec <&3 >&3 2>&3 3>&-`;

/**
 * Shell commands that give ports of a virtio console their names in /dev/virtio-ports, as udev does elsewhere. Ports and
 * names come by messages, so this waits until there are no more of them than a moment before.
 */
export const NAME_PORTS = `seen=
for look in 1 2 3 4 5 6 7 8 9 10; do
  found=$(cat /sys/class/virtio-ports/*/name 2>/dev/null)
  [ "$look" -gt 1 ] && [ "$found" = "$seen" ] && break
  seen=$found
  sleep 0.1
done
for port in /sys/class/virtio-ports/*; do
  [ -e "$port/name" ] || continue
  mkdir -p /dev/virtio-ports
  ln -s "../\${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
done`;
