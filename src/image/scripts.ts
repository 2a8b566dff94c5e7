/**
 * What is done to the tree of a file system as its root: shell scripts, because they run in namespaces of their own or
 * under chroot(8), where Node cannot follow. Each gets its input as arguments, tells its progress on file descriptor 3,
 * and ends at the first command that fails.
 */

/** Node's PATH may be a plain user's, without the programs of the system's administrator. */
const START = `set -eu
PATH=$PATH:/usr/sbin:/sbin
umask 022
`;

/**
 * inside COMMAND...: runs a program of the tree, without anything of the host's environment. The tree gets the devices
 * that maintainer scripts need: bound from the host in namespaces of our own, whose end takes them away again, else
 * made as nodes and removed.
 */
const INSIDE = `in_memory() {
  [ "$namespaces" = no ] || [ "$1" = 0 ] || mount -t tmpfs -o "mode=755,size=$1" tmpfs "$root"
}
inside() {
  chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 TZ=UTC \\
    DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true "$@"
}
furnish() {
  mkdir -p "$root/dev" "$root/proc"
  if [ "$namespaces" = yes ]; then
    mount -t tmpfs -o mode=755 tmpfs "$root/dev"
    for name in null zero full random urandom; do
      : >"$root/dev/$name"
      mount --bind "/dev/$name" "$root/dev/$name"
    done
    # A container may not be allowed a fresh /proc; most packages do without.
    mount -t proc proc "$root/proc" 2>/dev/null || mount --rbind /proc "$root/proc" 2>/dev/null || true
  else
    for node in 'null 1 3' 'zero 1 5' 'full 1 7' 'random 1 8' 'urandom 1 9'; do
      set -- $node
      mknod -m 666 "$root/dev/$1" c "$2" "$3"
    done
  fi
  for link in fd:/proc/self/fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do
    ln -s "\${link#*:}" "$root/dev/\${link%%:*}"
  done
}
strip() {
  # What is mounted there is not the tree's.
  [ "$namespaces" = yes ] && umount -l "$root/dev" && { umount -l "$root/proc" 2>/dev/null || true; }
  find "$root/dev" -mindepth 1 -delete
}
`;

/**
 * Installs Debian packages into an empty tree and packs it.
 *
 * Arguments: "yes" in namespaces of our own; the tree, an empty folder; how many bytes of memory it may take, 0 when it is
 * built on the disk; the archive to write; the folder of packages; how many of the packages come first; the packages'
 * file names. The first ones are what every package may rely on in its scripts
 * (Debian Policy 3.8): they are unpacked without scripts to begin with, so that dpkg and its scripts can run at all, and
 * then installed properly; apt of the new system orders the rest.
 */
export const INSTALL_SCRIPT = `${START}
namespaces=$1 root=$2 memory=$3 archive=$4 folder=$5 first=$6
shift 6
${INSIDE}in_memory "$memory"
# Debian 12 and later have these directories in /usr (Debian Policy 9.1.1).
for name in bin sbin lib lib64; do
  mkdir -p "$root/usr/$name"
  ln -s "usr/$name" "$root/$name"
done
mkdir -p "$root/debs"
essential= others= count=0
for deb in "$@"; do
  ln "$folder/$deb" "$root/debs/$deb" 2>/dev/null || cp "$folder/$deb" "$root/debs/$deb"
  count=$((count + 1))
  if [ "$count" -le "$first" ]; then
    essential="$essential /debs/$deb"
    echo "unpack:$count:$first" >&3
    dpkg-deb --fsys-tarfile "$root/debs/$deb" | tar -x -p -C "$root" --keep-directory-symlink -f -
  else
    others="$others /debs/$deb"
  fi
done
mkdir -p "$root/var/lib/dpkg"
: >>"$root/var/lib/dpkg/status"
: >>"$root/var/lib/dpkg/available"
furnish
# No service is to be started here (invoke-rc.d(8)).
printf '#!/bin/sh\\nexit 101\\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
echo install: >&3
inside dpkg --status-fd 3 --force-depends --force-unsafe-io --install $essential
if [ -n "$others" ]; then
  inside apt-get --yes --quiet --no-install-recommends -o APT::Status-Fd=3 -o APT::Sandbox::User=root \\
    -o Dpkg::Options::=--force-unsafe-io -o Dpkg::Use-Pty=false install $others
fi
faults=$(inside dpkg --audit)
[ -z "$faults" ] || { echo "dpkg: $faults" >&2; exit 1; }
echo pack: >&3
rm -rf "$root/debs" "$root/usr/sbin/policy-rc.d" "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin \\
  "$root"/var/cache/debconf/*-old "$root"/var/log/apt "$root"/var/log/*.log
# Where the new system's own apt gets packages; the host's sources may have more than Debian.
codename=$(sed -n 's/^VERSION_CODENAME=//p' "$root/etc/os-release")
if grep -q '^ID=debian$' "$root/etc/os-release" && [ -n "$codename" ]; then
  printf 'Types: deb\\nURIs: %s\\nSuites: %s\\nComponents: main\\nSigned-By: %s\\n\\n' \
    http://deb.debian.org/debian "$codename $codename-updates" /usr/share/keyrings/debian-archive-keyring.gpg \
    http://deb.debian.org/debian-security "$codename-security" /usr/share/keyrings/debian-archive-keyring.gpg \
    >"$root/etc/apt/sources.list.d/debian.sources"
fi
# Empty: each system that is started from this tree makes its own (machine-id(5)).
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id"
strip
tar -c --one-file-system --numeric-owner --xattrs --xattrs-include='*' -C "$root" -f "$archive" .
`;

/** Status of {@link FORMAT_SCRIPT} when the tree does not fit; the last progress line is "need:BYTES". */
export const DOES_NOT_FIT = 9;

/**
 * Makes an ext4 file system of a packed tree, with files put over it.
 *
 * Arguments: "yes" in namespaces of our own; the tree, an empty folder; how many bytes of memory it may take; the packed
 * tree; a folder of files that go over it; the folder of kernel modules, or ""; the image to write; its size in bytes; its
 * UUID. Root's password is in $TSVISOR_PASSWORD; none is needed to log in when that is empty or absent.
 */
export const FORMAT_SCRIPT = `${START}
namespaces=$1 root=$2 memory=$3 archive=$4 files=$5 modules=$6 image=$7 size=$8 uuid=$9
${INSIDE}in_memory "$memory"

echo copy: >&3
if [ -n "$archive" ]; then
  tar -x -p --numeric-owner --xattrs --xattrs-include='*' -C "$root" -f "$archive"
fi
# Whoever runs this owns the files here, and root owns them in the image.
tar -c --owner=0 --group=0 -C "$files" -f - . |
  tar -x -p --keep-directory-symlink --no-overwrite-dir -C "$root" -f -
if [ -n "$modules" ]; then
  version=\${modules##*/}
  mkdir -p "$root/usr/lib/modules"
  tar -c --owner=0 --group=0 -C "\${modules%/*}" -f - "$version" |
    tar -x -p -C "$root/usr/lib/modules" -f -
fi
if [ -n "$archive" ]; then
  furnish
  [ -z "$modules" ] || inside depmod "$version"
  if [ -n "\${TSVISOR_PASSWORD:-}" ]; then
    printf 'root:%s\\n' "$TSVISOR_PASSWORD" | inside chpasswd
  else
    inside passwd --quiet --delete root
  fi
  strip
fi
chmod 755 "$root"
# The files with some room for directories, the tables (an inode of 256 bytes for each 16 KiB, mostly), the journal.
kib=$(du -sxk "$root" | cut -f1)
journal=$((size / 1024 / 32 > 65536 ? 65536 : size / 1024 / 32))
need=$(((kib + kib / 16 + size / 1024 / 32 + journal) * 1024))
echo "need:$need" >&3
[ "$need" -le "$size" ] || exit ${DOES_NOT_FIT}
echo format: >&3
# All tables at once: left for later, the kernel would write them while the guest runs.
mkfs.ext4 -q -F -b 4096 -m 1 -L root -U "$uuid" -E lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0 \\
  -d "$root" "$image" "$((size / 1024))k"
`;
