#!/bin/busybox sh
# Process 1 of the guest: finds the host's root folder over 9p (read-only) and goes on there with the script that the
# kernel's command line names. Only what leads to that root is in this archive.
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t devtmpfs dev /dev
while read -r module; do
    busybox insmod "/modules/$module" || echo "skerry-vm: insmod $module failed"
done < /modules/order
for word in $(busybox cat /proc/cmdline); do
    case $word in
        skerry.script=*) script=${word#skerry.script=} ;;
    esac
done
options=trans=virtio,version=9p2000.L,msize=262144
if ! busybox mount -t 9p -o "ro,cache=loose,$options" host /root; then
    echo "skerry-vm: no root"
    busybox poweroff -f
fi
busybox umount /proc
busybox mount --move /dev /root/dev
exec busybox switch_root /root /bin/sh "$script"
echo "skerry-vm: no script"
busybox poweroff -f
