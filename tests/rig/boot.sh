#!/bin/sh
# The first process of a host: mounts its file system and becomes its sshd.
#   boot.sh <folder of the host> <host name> <folder of the shared home, or nothing>
# Runs in namespaces that are already its own, so nothing here is seen outside.
set -eu
disk=$1/disk
name=$2
shared=$3
root=$1/root

mount --make-rprivate /
mkdir -p "$root"
mount --bind "$disk/root" "$root"
for part in usr etc; do
    mount -t overlay overlay "$root/$part" \
        -o "lowerdir=/$part,upperdir=$disk/$part,workdir=$disk/work-$part"
done
if [ -f "$disk/home.img" ]; then
    mount -o loop "$disk/home.img" "$root/home"
elif [ -n "$shared" ]; then
    mount --bind "$shared" "$root/home"
fi

mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir "$root/run/sshd" "$root/run/lock"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,gid=5,mode=620,ptmxmode=666 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/dev/shm"
mknod -m 666 "$root/dev/null" c 1 3
mknod -m 666 "$root/dev/zero" c 1 5
mknod -m 666 "$root/dev/full" c 1 7
mknod -m 666 "$root/dev/random" c 1 8
mknod -m 666 "$root/dev/urandom" c 1 9
mknod -m 666 "$root/dev/tty" c 5 0
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"
mount -t proc proc "$root/proc"

echo "$name" >/proc/sys/kernel/hostname
cd "$root"
pivot_root . mnt
cd /
umount -l /mnt
echo ready
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    /usr/sbin/sshd -D -e </dev/null >/dev/null
