# Compares what the program prints with what it should.
set -eu
expected='3 b
2 a
1 c'
actual=$(echo 'b a b c a b' | ./wordfreq)
if [ "$actual" = "$expected" ]; then
    echo 'check: passed'
else
    printf 'check: expected\n%s\nbut got\n%s\n' "$expected" "$actual" >&2
    exit 1
fi
