#!/bin/bash
#PBS -N {{name}}
#PBS -l select={{nodes}}:ncpus={{cores_per_node}}:mpiprocs={{ranks_per_node}}:ompthreads={{threads}}{{memory}}
#PBS -l walltime={{time}}
#PBS -j oe
{{directives}}

# PBS sends no signal before the time limit
timer=(timeout --preserve-status --signal=USR1 {{work_s}})
{{body}}
