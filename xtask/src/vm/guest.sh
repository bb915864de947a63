# Goes on as process 1 in the guest, below the host's root folder, which is read-only here: whatever tests write to is
# memory. Runs what `programs` beside this file names, one `NAME FOLDER SECONDS PROGRAM ARGUMENTS` a line (tabs between);
# logs and exit codes go to the folder that the host shares as `out`.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C.UTF-8 RUST_BACKTRACE=1
here=${0%/*}
. "$here/environment"
options=trans=virtio,version=9p2000.L,msize=262144
mount -t proc proc /proc
mount -t sysfs sys /sys
for folder in /tmp /run /var/lib; do
    mount -t tmpfs memory "$folder"
done
mkdir -p /dev/pts /dev/shm /run/out /run/lock
mount -t devpts pts /dev/pts
mount -t tmpfs memory /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup
echo +memory > /sys/fs/cgroup/cgroup.subtree_control
mount -t bpf bpf /sys/fs/bpf
mount -t 9p -o "$options,cache=none" out /run/out
# A workspace below /tmp is hidden by now.
number=0
for folder in $visible; do
    if [ ! -d "$folder" ]; then
        mkdir -p "$folder"
        mount -t 9p -o "ro,cache=loose,$options" "visible$number" "$folder"
    fi
    number=$((number + 1))
done
# What the kernel calls for a device or a protocol of a kind that it does not know yet.
printf '#!/bin/sh\nexec /sbin/modprobe -d %s "$@"\n' "$modules" > /run/modprobe
chmod +x /run/modprobe
echo /run/modprobe > /proc/sys/kernel/modprobe
ip link set lo up
echo "skerry-vm: up $(uname -r)"
while IFS='	' read -r name folder seconds line; do
    cd "$folder" || echo "no folder $folder"
    export CARGO_MANIFEST_DIR="$folder"
    timeout -k 5 "$seconds" $line < /dev/null > "/run/out/$name.log" 2>&1
    echo $? > "/run/out/$name.code"
    echo "skerry-vm: done $name"
done < "$here/programs"
dmesg > /run/out/dmesg.log
echo "skerry-vm: end"
busybox poweroff -f
