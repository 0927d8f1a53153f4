mpiexec={{mpiexec}}
launcher=()
if [ "$ranks" -gt 1 ]; then
    case "$("$mpiexec" --version 2>&1)" in
    *"Open MPI"* | *OpenRTE* | *PRRTE*) # it would bind each rank, with all its threads, to one core
        launcher=("$mpiexec" -n "$ranks" --map-by "ppr:$ranks_per_node:node{{overload}}" --bind-to none)
        ;;
    *)
        launcher=("$mpiexec" -n "$ranks" -ppn "$ranks_per_node")
        ;;
    esac
fi
