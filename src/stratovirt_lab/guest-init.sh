#!/bin/busybox sh
# PID 1 of a guest before its root: loads the virtio drivers, then enters root= or a shell.
/bin/busybox mkdir -p /proc /sys /dev /root /tmp
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
for word in $(cat /proc/cmdline); do
    case $word in
    root=/dev/*) root=${word#root=} ;;
    ro) mode=ro ;;
    esac
done
if [ -n "$root" ] && [ "$root" != /dev/ram ]; then
    tries=0
    while [ ! -b "$root" ] && [ $tries -lt 100 ]; do
        tries=$((tries + 1))
        usleep 50000
    done
    mount -t ext4 -o "${mode:-rw}" "$root" /root || exec sh
    for fs in proc sys dev; do mount -o move /$fs /root/$fs; done
    exec switch_root /root /sbin/init
fi
hostname guest
echo "guest: ready in the initramfs"
while true; do setsid cttyhack sh; done
