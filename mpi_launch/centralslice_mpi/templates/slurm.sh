#!/bin/bash
#SBATCH --job-name={{name}}
#SBATCH --nodes={{nodes}}
#SBATCH --ntasks-per-node={{ranks_per_node}}
#SBATCH --cpus-per-task={{threads}}
#SBATCH --time={{time}}
#SBATCH --signal=B:USR1@{{warning_s}}
#SBATCH --output={{name}}.%j.log
#SBATCH --open-mode=append
{{directives}}

timer=()
{{body}}
