#!/bin/sh
# Puts Skerry on this machine, or takes it away: two programs, and units where systemd is.
# It starts nothing, and needs nothing but a shell; running clusters take up new programs when they are restarted.
set -eu

usage() {
    echo "usage: sh install.sh [--prefix DIR] [--units DIR] [--remove]" >&2
    echo "  --prefix DIR  programs go to DIR/lib/skerry, a link to DIR/bin (/usr/local)" >&2
    echo "  --units DIR   systemd's units go there (/etc/systemd/system, where systemd runs)" >&2
    echo "  --remove      take all of it away again; first: skerry uninstall" >&2
    exit 2
}

prefix=/usr/local
units=
[ ! -d /run/systemd/system ] || units=/etc/systemd/system
remove=
while [ $# -gt 0 ]; do
    case "$1" in
        --prefix) [ $# -gt 1 ] || usage; prefix=$2; shift 2 ;;
        --units) [ $# -gt 1 ] || usage; units=$2; shift 2 ;;
        --remove) remove=yes; shift ;;
        *) usage ;;
    esac
done
here=$(cd "$(dirname "$0")" && pwd)
programs=$prefix/lib/skerry

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "root is needed: run it with sudo"

if [ -n "$remove" ]; then
    for data in /var/lib/skerry /run/skerry; do
        [ ! -d "$data" ] || echo "install.sh: $data stays: \`skerry uninstall\` before this removes what Skerry has set up"
    done
    rm -f "$prefix/bin/skerry" "$programs/skerry" "$programs/skerry-cni"
    [ ! -d "$programs" ] || rmdir "$programs"
    [ -z "$units" ] || rm -f "$units/skerry.service" "$units/skerry-node.service"
    echo "removed from $prefix"
    exit 0
fi

built_for=$(cat "$here/ARCHITECTURE")
[ "$(uname -m)" = "$built_for" ] || fail "these programs are for $built_for, this machine is $(uname -m)"

# Beside the old one and renamed: what runs keeps its file, and who starts it finds a whole one.
put() {
    cp "$1" "$2.new"
    chmod "$3" "$2.new"
    mv -f "$2.new" "$2"
}
mkdir -p "$programs" "$prefix/bin"
put "$here/bin/skerry-cni" "$programs/skerry-cni" 755
put "$here/bin/skerry" "$programs/skerry" 755
ln -sfn "$programs/skerry" "$prefix/bin/skerry"
if [ -n "$units" ]; then
    mkdir -p "$units"
    for unit in skerry.service skerry-node.service; do
        sed "s|@PROGRAMS@|$programs|" "$here/systemd/$unit" > "$units/$unit.new"
        mv -f "$units/$unit.new" "$units/$unit"
    done
fi

"$programs/skerry" --version
echo "installed in $prefix"
[ -S /run/containerd/containerd.sock ] ||
    echo "containerd does not listen at /run/containerd/containerd.sock: Debian's is \`apt-get install containerd\`"
echo "next: \`skerry up\` makes a cluster of this machine, \`skerry node --server … --token …\` joins one;"
[ -z "$units" ] || echo "by systemd: options in /etc/skerry/up.conf or node.conf, then \`systemctl enable --now skerry\` or skerry-node;"
echo "\`skerry doctor\` says whether all is well"
