# Runs one command in the lab, wired to the caller's streams, and reports its exit status.
bb=/run/lab/busybox
job=$1
$bb ip link set lo up
$bb hostname lab
port() {
    for entry in /sys/class/virtio-ports/*; do
        if [ "$($bb cat "$entry/name" 2>/dev/null)" = "$1" ]; then echo "/dev/${entry##*/}"; fi
    done
}
$bb sh "$job/hold.sh" </dev/null >/dev/console 2>&1 &
if [ -e "$job/tty" ]; then
    # The command owns a terminal: hvc0, whose other end is the caller's.
    $bb stty $($bb cat "$job/tty") </dev/hvc0
    $bb setsid -c $bb sh "$job/run.sh" </dev/hvc0 >/dev/hvc0 2>&1
    status=$?
else
    $bb mkfifo /run/lab/out /run/lab/err
    $bb cat /run/lab/out >"$(port lab.out)" & out=$!
    $bb cat /run/lab/err >"$(port lab.err)" & err=$!
    $bb setsid $bb sh "$job/run.sh" <"$(port lab.in)" >/run/lab/out 2>/run/lab/err
    status=$?
    # What the command left running may hold the pipes open: give it two seconds.
    ($bb sleep 2; $bb kill $out $err) 2>/dev/null & watchdog=$!
    wait $out $err 2>/dev/null
    $bb kill $watchdog 2>/dev/null
fi
$bb sync
$bb umount /scratch 2>/dev/null
echo "$status" >"$(port lab.status)"
$bb poweroff -f
