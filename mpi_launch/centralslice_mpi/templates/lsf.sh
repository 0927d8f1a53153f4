#!/bin/bash
#BSUB -J {{name}}
#BSUB -n {{cores}}
#BSUB -R "span[ptile={{cores_per_node}}]"
#BSUB -W {{time_hm}}
#BSUB -wa USR1
#BSUB -wt {{warning_min}}
#BSUB -o {{name}}.%J.log
{{directives}}

timer=()
{{body}}
