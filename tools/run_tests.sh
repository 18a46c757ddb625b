#!/usr/bin/env bash
# Runs every bed and ends with one line of totals. A bed that cannot run fails the whole run.
set -uo pipefail
cd "$(dirname "$0")/.."
pytest=(.venv/bin/python -m pytest)
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
passed=0 failed=0
times=$logs/times retries=$logs/retries
touch "$times" "$retries"

bed() {
    local name=$1 log started=$SECONDS
    log=$(mktemp -p "$logs")
    shift
    echo "== bed $name"
    "$@" 2>&1 | tee "$log"
    local status=${PIPESTATUS[0]}
    local ok bad
    # The last line of totals: what programs print before it may look alike.
    local totals
    totals=$(grep -E '^[0-9]+ (passed|failed|error)' "$log" | tail -1)
    ok=$(grep -oE '[0-9]+ passed' <<<"$totals" | cut -d' ' -f1)
    bad=$(grep -oE '[0-9]+ (failed|errors?)' <<<"$totals" | awk '{n += $1} END {print n + 0}')
    if grep -qE '[0-9]+ skipped' <<<"$totals"; then
        echo "run_tests: bed $name skipped tests, which counts as a failure" >&2
        bad=$((${bad:-0} + 1))
    fi
    if [ "$status" != 0 ] && [ "${bad:-0}" = 0 ]; then bad=1; fi
    passed=$((passed + ${ok:-0})) failed=$((failed + ${bad:-0}))
    echo "== bed $name: ${ok:-0} passed, ${bad:-0} failed"
    printf '%6d:%02d  %s\n' $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60)) "$name" >>"$times"
}

# What the lab boots is made beside the beds that leave a core idle.
.venv/bin/stratovirt-lab images &
images=$!
bed unit "${pytest[@]}" tests/unit
bed board "${pytest[@]}" tests/board
# Long runs are `make fuzz T=NAME MIN=10`.
bed "fuzz, ten seconds a target" .venv/bin/python -m tests.fuzz all 0.1667
wait "$images" || exit 1
# The lab is an emulated machine: when it hangs or dies (125), as opposed to a test failing in it,
# those tests of the file that have not passed yet are made again from a fresh start.  That counts
# as a failure, unless the lab's console shows that QEMU was at fault.
in_lab() {
    local attempt status folder count
    folder=$(mktemp -d -p "$logs")
    for attempt in 1 2 3 4; do
        # The longest tests are silent for minutes on a slow machine.
        STRATOVIRT_PASSED=$folder/passed \
            .venv/bin/stratovirt-lab run --silence 700 --rw "$folder" -- "${pytest[@]}" "$@" 2>&1 |
            tee "$folder/output"
        status=${PIPESTATUS[0]}
        [ "$status" = 125 ] || break
        if grep -q "^stratovirt-lab: QEMU's fault" "$folder/output"; then
            echo "$*: QEMU's fault" >>"$retries"
        else
            echo "$*: counts as a failure" >>"$retries"
        fi
        echo "run_tests: the lab itself failed (status $status), attempt $attempt of 4" >&2
    done
    count=$(wc -l <"$folder/passed" 2>/dev/null || echo 0)
    # Nothing was left to do (5) when the lab died after the last test.
    if [ "$status" = 5 ] && [ "$attempt" -gt 1 ]; then status=0; fi
    if [ "$attempt" -gt 1 ] && [ "$status" = 0 ]; then echo "$count passed"; fi
    return "$status"
}

if [ -r /dev/kvm ] && [ -w /dev/kvm ]; then
    bed kvm "${pytest[@]}" tests/kvm
else
    echo "== no usable /dev/kvm here: bed kvm runs in the lab"
    bed kvm in_lab tests/kvm
fi
# Short files share a lab with those that follow.
labs=()
short=
for file in tests/guest/test_*.py; do
    case $(basename "$file" .py) in
    test_inputs | test_manager | test_net_uses | test_ozone | test_plugins) short+="$file " ;;
    *) labs+=("$short$file") short= ;;
    esac
done
for files in "${labs[@]}"; do
    # shellcheck disable=SC2086 # several files
    bed "guest, $(basename -a -s .py $files | paste -sd ' ')" in_lab $files
done
echo "== minutes, bed by bed"
cat "$times"
echo "== starts of a lab that failed: $(wc -l <"$retries")"
cat "$retries"
failed=$((failed + $(grep -c ': counts as a failure$' "$retries")))
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
