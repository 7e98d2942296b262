#!/bin/sh
# Installs the real systems that the tests talk to, from Debian's packages, where they are
# missing. Needs root for that; where everything is there already it changes nothing.
set -eu

missing=''
need() { # package, then a command or file that it brings
  if command -v "$2" >/dev/null 2>&1 || [ -e "$2" ]; then return; fi
  missing="$missing $1"
}

need orthanc /usr/sbin/Orthanc
need orthanc-dicomweb /usr/share/orthanc/plugins/libOrthancDicomWeb.so
need dcmtk dcmdump
need dicom3tools dciodvfy
need poppler-utils pdftotext
need chromium chromium
need wrk wrk
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || need postgresql initdb

node_major() { node --version 2>/dev/null | sed -n 's/^v\([0-9]*\).*/\1/p'; }
major=$(node_major)
[ "${major:-0}" -ge 18 ] || missing="$missing nodejs"
need npm npm

if [ -z "$missing" ]; then exit 0; fi

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "the tests need these Debian packages, and only root can install them:$missing" >&2
  exit 1
fi

# The tests start their own servers: the packages must not start theirs.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi

export DEBIAN_FRONTEND=noninteractive
echo "installing:$missing"
apt-get update -qq
# shellcheck disable=SC2086 # a list of package names
apt-get install -y -qq --no-install-recommends $missing >/dev/null

major=$(node_major)
if [ "${major:-0}" -lt 18 ]; then
  echo "the FHIR server of the tests needs Node.js 18 or newer; this system brings ${major:-none}" >&2
  exit 1
fi
