set -u
cd {{directory}} || exit 1
{{setup}}
ranks={{ranks}}
ranks_per_node={{ranks_per_node}}
threads={{threads}}
export OMP_NUM_THREADS="$threads"

command=({{command}})

{{launcher}}

# A signal before the time limit (or TERM or INT, which Open MPI would answer by killing its ranks) reaches the ranks as
# USR1: they write a checkpoint and end with code 75.
signalled=0
job=
forward() {
    signalled=1
    kill -USR1 "$job" 2>/dev/null
}
trap forward USR1 TERM INT

${timer[@]+"${timer[@]}"} ${launcher[@]+"${launcher[@]}"} "${command[@]}" &
job=$!
wait "$job"
code=$?
while [ "$signalled" -eq 1 ]; do # wait was interrupted
    signalled=0
    wait "$job"
    again=$?
    [ "$again" -eq 127 ] || code=$again # 127: it had been waited for
done

if [ "$code" -eq 75 ]; then
    {{requeue}}
fi
exit "$code"
