#!/bin/busybox sh
# PID 1 of the lab host: sees the machine it runs on read-only over 9p, with memory on top.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
/bin/busybox mkdir -p /proc /sys /dev /lower /upper /root
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mount -t tracefs tracefs /sys/kernel/tracing
for module in $(/bin/busybox cat /modules/order); do
    /bin/busybox insmod /modules/$module || echo "lab: cannot load $module"
done
arg() {
    for word in $(/bin/busybox cat /proc/cmdline); do
        case $word in "$1="*) echo "${word#*=}" ;; esac
    done
}
job=$(arg lab.job)
writable=$(arg lab.rw)
p9=trans=virtio,version=9p2000.L,msize=512000
/bin/busybox mount -t 9p -o ro,$p9,cache=loose hostroot /lower
/bin/busybox mount -t tmpfs -o size=75% tmpfs /upper
/bin/busybox mkdir /upper/new /upper/work
/bin/busybox mount -t overlay -o lowerdir=/lower,upperdir=/upper/new,workdir=/upper/work overlay /root
for fs in proc sys dev; do /bin/busybox mount -o move /$fs /root/$fs; done
/bin/busybox mkdir -p /root/dev/pts /root/dev/shm /root/scratch /root/sys/fs/cgroup
/bin/busybox mount -t configfs configfs /root/sys/kernel/config
/bin/busybox mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /root/dev/pts
/bin/busybox mount -t tmpfs tmpfs /root/dev/shm
/bin/busybox mount -t tmpfs tmpfs /root/run
/bin/busybox mount -t ext4 /root/dev/vda /root/scratch
/bin/busybox mkdir -p /root/run/lab /root/run/lock
n=0
for dir in $writable; do
    /bin/busybox mount -t 9p -o $p9 rw$n "/root$dir"
    n=$((n + 1))
done
/bin/busybox cp /bin/busybox /lab-agent.sh /root/run/lab/
exec /bin/busybox switch_root /root /run/lab/busybox sh /run/lab/lab-agent.sh "$job"
