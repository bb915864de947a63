# $1 the node's folder, $2 its /run, $3 the holder's cgroup, $4 its name, $5 its address. Runs in the node's own mount namespace, so
# that nothing of this is left once the last process in there is gone.
set -e
dir=$1 run=$2 name=$4
echo 0 > "$3/cgroup.procs"
echo "$name" > /proc/sys/kernel/hostname
cd "$dir"

# A new sysfs shows this network namespace's devices; cgroup comes back from the machine's, bpffs is the node's own.
mount --rbind /sys/fs/cgroup aside/cgroup
mount -t bpf bpf aside/bpf
mount -t sysfs sysfs /sys
mount --move aside/cgroup /sys/fs/cgroup
mount --move aside/bpf /sys/fs/bpf

# /etc is the machine's until the node writes to it. Where the machine's root is an overlay itself: a copy.
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$dir/etc-upper,workdir=$dir/etc-work" /etc 2>/dev/null || {
    cp -a /etc/. etc-upper/
    mount --bind etc-upper /etc
}
printf '127.0.0.1 localhost\n::1 localhost\n%s %s\n' "$5" "$name" > /etc/hosts
mount --bind opt /opt
mount --bind var-log /var/log
mount --bind "$run" /run
# Last, since the node's folder lies below it.
mount --bind var-lib /var/lib
cd /
echo ready
exec sleep infinity > /dev/null
